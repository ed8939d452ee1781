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
from mmfm.config import dump, to_dict
from mmfm.data.pipeline import Pipeline
from mmfm.data.quarantine import check_bad_share
from mmfm.feature_caching import open_caches
from mmfm.predictor import Predictor
from mmfm.train import report, state
from mmfm.train.evaluation import Evaluation, build_evaluators, open_manifests
from mmfm.train.flops import FlopCounter, peak_flops
from mmfm.train.groups import freeze_parts, next_thaw
from mmfm.train.log import RunLog, environment
from mmfm.train.measure import Clock, metrics_row
from mmfm.train.optim import groups_of
from mmfm.train.pieces import averaged_weights
from mmfm.train.resume import check_resume, restored
from mmfm.train.run import Run
from mmfm.train.trainer import StepResult, Trainer
from mmfm.types import Batch
from mmfm.weights import load_task


def check(run: Run, found: Checkpoint | None, pipeline: Pipeline) -> None:
    """All that can be checked before the start; puts the checkpoint's weights into the task."""
    if found is not None:
        check_resume(found, pipeline)
        load_task(run.task, found)
    recipe = run.recipe
    freeze_parts(run.task, recipe.optim.freeze, 0 if found is None else found.step)
    groups_of(run.task, recipe.optim)
    build_evaluators(recipe, Predictor(run.task, run.label), open_manifests(recipe))


def train(run: Run, found: Checkpoint | None) -> bool:
    """Train to the end; collective, in a started process group.

    False where a part of the model begins to train now: ZeRO would ignore what becomes trainable
    later, so a run that is prepared anew must go on, from the checkpoint that is written. `check`
    has passed, and has put the checkpoint's weights into the task.
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
        raw=run.task.raw,
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
    steps = _together(iter(pipeline))
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
        _steps(run, trainer, pipeline, steps, evaluation, log)
    finally:
        log.close()
    if trainer.step_index < recipe.train.max_steps:  # a part begins to train
        trainer.engine.destroy()
        return False
    if distributed.is_main():
        report.write(run.folder)
    return True


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
    log: RunLog,
) -> None:
    """The steps that are left, or those until a part begins to train, with logging, evaluation and
    checkpoints.
    """
    config, optim = run.recipe.train, run.recipe.optim
    thaw = next_thaw(optim.freeze, trainer.step_index)
    end = config.max_steps if thaw is None else min(thaw, config.max_steps)
    clock = Clock(run.recipe.data.global_batch_size)
    clock.peak_flops = peak_flops(
        trainer.engine.device, torch.bfloat16 if config.precision == "bf16" else torch.float32
    )
    while trainer.step_index < end:
        clock.start()
        micro_batches = next(steps)
        clock.data_is_there()
        with FlopCounter(run.task) if not clock.flops_a_step else nullcontext() as counter:
            result = trainer.step(micro_batches)
        if counter is not None:
            clock.flops_a_step = counter.flops
        clock.step_is_done()
        step, last = trainer.step_index, trainer.step_index == config.max_steps
        logs = last or step % config.log_every == 0
        saves = step == end or step % config.save_every == 0
        if logs or saves:
            _check(result, step, pipeline)
        if logs:
            log.train(metrics_row(step, pipeline, result, micro_batches, clock, config.max_steps))
        if last or step % config.eval_every == 0:
            judged = averaged_weights if optim.ema and optim.ema.evaluate else nullcontext
            with judged(trainer.engine):
                evaluation.run(step)
        if saves:
            save(run, trainer, pipeline, step)


def _together(steps: Iterator[list[Batch]]) -> Iterator[list[Batch]]:
    """The steps' micro-batches. Where one rank has none, all ranks raise its error; collective."""
    while True:
        found, problem = None, None
        try:
            found = next(steps)
        except (ValueError, OSError) as error:
            problem = str(error)
        failed = torch.tensor(float(found is None), device=distributed.device())
        if distributed.all_reduce_sum(failed).item():
            told = [p for p in distributed.all_gather_object(problem) if p is not None]
            raise ValueError(told[0])
        assert found is not None
        yield found


def _check(result: StepResult, step: int, pipeline: Pipeline) -> None:
    """Stop on all ranks together where the loss or its gradient is no number, or too many samples
    were bad.
    """
    if not math.isfinite(result.loss):
        raise ValueError(f"step {step}: the loss is not finite: {result.losses}")
    if not result.skipped and not 0 <= result.grad_norm < math.inf:  # ZeRO says -1
        raise ValueError(
            f"step {step}: the gradient is not finite, though the loss is: {result.losses}; the "
            "newest checkpoint is of an earlier step"
        )
    counts = distributed.all_gather_object(
        (sum(pipeline.bad_counts.values()), pipeline.samples_read)
    )
    bad, read = (sum(column) for column in zip(*counts, strict=True))
    check_bad_share(bad, read, pipeline.config.max_bad_share)


def save(run: Run, trainer: Trainer, pipeline: Pipeline, step: int) -> None:
    """Write the checkpoint of `step`, then delete those beyond ``train.keep_checkpoints``;
    collective.
    """

    def files(folder: Path) -> None:
        (folder / "config.yaml").write_text(dump(run.recipe), encoding="utf-8")
        preprocessing = {
            "specs": run.task.specs,
            "transforms": to_dict(run.recipe.data)["transforms"],
            "label": run.label,
        }
        (folder / "preprocessing.json").write_text(
            json.dumps(preprocessing, indent=1, ensure_ascii=False), encoding="utf-8"
        )
        run.task.model.save_assets(folder / "assets")

    checkpoint.write(
        run.checkpoints,
        step,
        pipeline.samples_seen,
        {
            "model": state.weights_part(trainer.engine),
            "optimizer": state.optimizer_part(trainer.engine),
            **({"ema": state.ema_part(trainer.engine)} if run.recipe.optim.ema else {}),
        },
        files,
        {
            "fingerprint": pipeline.order.fingerprint,
            "optimizer_scalars": state.optimizer_scalars(trainer.engine),
            "loss_scaler": state.loss_scaler_state(trainer.engine),
        },
    )
    if distributed.is_main():
        checkpoint.prune(run.checkpoints, run.recipe.train.keep_checkpoints)
