"""The loop that pretraining and fine-tuning share: train, log, evaluate, save."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch

from mmfm import checkpoint, distributed
from mmfm.checkpoint import Checkpoint
from mmfm.config import dump
from mmfm.data.loading import WorkerDiedError
from mmfm.data.pipeline import Pipeline
from mmfm.data.quarantine import check_bad_share
from mmfm.feature_caching import open_caches
from mmfm.predictor import Predictor
from mmfm.train import report, state
from mmfm.train.evaluation import Evaluation, build_evaluators, open_manifests
from mmfm.train.flops import FlopCounter, peak_flops
from mmfm.train.log import RunLog, environment
from mmfm.train.measure import Clock, metrics_row
from mmfm.train.resume import check_resume, restored
from mmfm.train.run import Run
from mmfm.train.saving import Saver, check_keep_best
from mmfm.train.signals import StopSignals
from mmfm.train.trainer import StepResult, Trainer
from mmfm.types import Batch


def check(run: Run, found: Checkpoint | None, pipeline: Pipeline) -> None:
    """All that can be checked before the start; puts the checkpoint's weights into the task."""
    if found is not None:
        check_resume(found, pipeline)
        state.load_weights(run.task, found)
    checkpoint.check_writable(run.folder)
    check_keep_best(run.recipe)
    build_evaluators(run.recipe, Predictor(run.task, run.label), open_manifests(run.recipe))


def train(run: Run, found: Checkpoint | None) -> bool:
    """Train to the end, or to where a rank is asked to stop, and return whether it is the end;
    collective, in a started process group.

    `check` has passed, and has put the checkpoint's weights into the task.
    """
    recipe = run.recipe
    sources = [(name, manifest) for name, manifest, _ in recipe.data.open_sources()]
    eval_manifests = open_manifests(recipe)
    transforms = recipe.data.transforms
    folder = Path(recipe.run.feature_cache)
    model = run.task.model
    open_caches(model, sources, folder, transforms=transforms, train=True)
    evaluated = list(eval_manifests.items())
    # The same caches, opened when all is in them.
    caches = open_caches(model, evaluated, folder, transforms=transforms, train=False)
    pipeline = run.pipeline(
        distributed.world_size(),
        samples_seen=0 if found is None else found.samples_seen,
        cache=caches,
        raw=list(run.task.mask_ratios),
        quarantine=run.folder / "quarantine.jsonl",
    )
    if run.begin is not None and found is None:
        run.begin()
    trainer = Trainer(
        run.task,
        recipe.train,
        recipe.optim,
        global_batch_size=recipe.data.global_batch_size,
        seed=recipe.run.seed,
        deepspeed=recipe.deepspeed,
    )
    stop = StopSignals(tell=distributed.is_main())
    steps = _together(iter(pipeline), stop)
    if found is not None:
        if found.step < recipe.train.max_steps:
            steps = restored(trainer, found, steps)
        trainer.step_index = found.step
    _start_folder(run)
    log = RunLog(run.folder, distributed.is_main(), recipe.train.max_steps)
    try:
        predictor = Predictor(run.task, run.label, forward=trainer.engine, transforms=transforms)
        evaluation = Evaluation(recipe, predictor, eval_manifests, caches, log)
        _tell_start(run, found, evaluation, log)
        saver = Saver(run, trainer, pipeline, None if found is None else found.step)
        with stop:
            done = _steps(run, trainer, pipeline, steps, evaluation, saver, log)
    finally:
        log.close()
    if distributed.is_main():
        report.write(run.folder)
    return done


def _start_folder(run: Run) -> None:
    """The run's folder; nothing is written before the run can start."""
    if distributed.is_main():
        run.folder.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text(run.folder / "config.yaml", dump(run.recipe).rstrip())
        checkpoint.write_text(run.folder / "environment.json", json.dumps(environment(), indent=1))


def _tell_start(run: Run, found: Checkpoint | None, evaluation: Evaluation, log: RunLog) -> None:
    if found is None:
        if run.evaluate_first:
            evaluation.run(0)
    elif found.step < run.recipe.train.max_steps:
        log.event("resume", step=found.step)
        log.say(f"continuing from {found.path.name} at step {found.step}")
    else:
        log.say(f"{run.folder}: done already ({found.step} steps)")


def _steps(
    run: Run,
    trainer: Trainer,
    pipeline: Pipeline,
    steps: Iterator[list[Batch]],
    evaluation: Evaluation,
    saver: Saver,
    log: RunLog,
) -> bool:
    """The steps that are left, with logging, evaluation and checkpoints; False where a rank was
    asked to stop before the last one.
    """
    config = run.recipe.train
    clock = Clock(run.recipe.data.global_batch_size)
    clock.peak_flops = peak_flops(
        trainer.engine.device, torch.bfloat16 if config.precision == "bf16" else torch.float32
    )
    while trainer.step_index < config.max_steps:
        clock.start()
        micro_batches = next(steps, None)
        if micro_batches is None:
            saver.save()
            log.event("stop", step=trainer.step_index)
            log.say(f"stopped after step {trainer.step_index}; the same command goes on from there")
            return False
        clock.data_is_there()
        with FlopCounter(run.task) if not clock.flops_a_step else nullcontext() as counter:
            result = trainer.step(micro_batches)
        if counter is not None:
            clock.flops_a_step = counter.flops
        clock.step_is_done()
        step, last = trainer.step_index, trainer.step_index == config.max_steps
        logs, saves = (last or step % n == 0 for n in (config.log_every, config.save_every))
        if logs or saves:
            _check(result, step, pipeline)
        if logs:
            log.train(metrics_row(step, pipeline, result, micro_batches, clock, config.max_steps))
        if last or step % config.eval_every == 0:
            saver.keep_best(evaluation.run(step))
        if saves:
            saver.save()
    return True


def _together(steps: Iterator[list[Batch]], stop: StopSignals) -> Iterator[list[Batch]]:
    """The steps' micro-batches, until one rank is asked to stop. Where one rank has none, all ranks
    raise its error; collective.
    """
    while True:
        found, problem, asked = None, None, stop.asked
        try:
            found = None if asked else next(steps)
        except (ValueError, OSError, WorkerDiedError) as error:
            problem = str(error)
        flags = torch.tensor([problem is not None, asked], device=distributed.device()).double()
        failed, stopped = distributed.all_reduce_sum(flags).tolist()
        if failed:
            told = [p for p in distributed.all_gather_object(problem) if p is not None]
            raise ValueError(told[0])
        if stopped:
            return
        assert found is not None
        yield found


def _check(result: StepResult, step: int, pipeline: Pipeline) -> None:
    """Stop on all ranks together where the loss or its gradient is no number, or too many samples
    were bad.
    """
    if not math.isfinite(result.loss):
        raise ValueError(f"step {step}: the loss is not finite: {result.losses}")
    if not 0 <= result.grad_norm < math.inf:  # ZeRO says -1
        raise ValueError(
            f"step {step}: the gradient is not finite, though the loss is: {result.losses}; the "
            "newest checkpoint is of an earlier step"
        )
    counts = distributed.all_gather_object(
        (sum(pipeline.bad_counts.values()), pipeline.samples_read)
    )
    bad, read = (sum(column) for column in zip(*counts, strict=True))
    check_bad_share(bad, read, pipeline.config.max_bad_share)
