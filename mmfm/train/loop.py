"""The loop that pretraining and fine-tuning share: resume, train, log, evaluate, save."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmfm import checkpoint, distributed
from mmfm.checkpoint import Checkpoint, CheckpointError
from mmfm.config import ConfigError, dump, to_dict
from mmfm.data.evaluation import EvaluationSource
from mmfm.data.manifest import Manifest
from mmfm.data.pipeline import Pipeline
from mmfm.data.quarantine import check_bad_share
from mmfm.feature_caching import open_caches
from mmfm.predictor import Predictor
from mmfm.task import Task
from mmfm.train import report, state
from mmfm.train.log import RunLog, environment, summary
from mmfm.train.recipe import Recipe
from mmfm.train.trainer import StepResult, Trainer
from mmfm.types import Batch


@dataclass
class Run:
    """A run that is set up: nothing of it has started yet. `label`: (field, names) that a head
    learns.
    """

    recipe: Recipe
    task: Task
    label: tuple[str, list[str]] | None = None
    evaluate_first: bool = False

    def __post_init__(self) -> None:
        self.folder = Path(self.recipe.run.dir)
        self.checkpoints = self.folder / "checkpoints"

    def pipeline(self, world_size: int, **more: Any) -> Pipeline:
        recipe = self.recipe
        return Pipeline(
            recipe.data,
            self.task.model.specs,
            seed=recipe.run.seed,
            rank=distributed.rank(),
            world_size=world_size,
            micro_batch_size=recipe.train.micro_batch_size,
            label=self.label,
            pin_memory=torch.cuda.is_available(),
            **more,
        )


def resume_point(recipe: Recipe) -> Checkpoint | None:
    """The checkpoint that the run continues from, by ``run.resume``; None for a run from the
    start.
    """
    folder, how = Path(recipe.run.dir), recipe.run.resume
    if how == "never":
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(
                f"run.dir = {folder} is in use, and run.resume is never: name another"
            )
        return None
    if how != "auto":
        return Checkpoint.open(how)
    found = checkpoint.latest(folder / "checkpoints") if folder.exists() else None
    return None if found is None else Checkpoint.open(found)


def check_resume(found: Checkpoint, pipeline: Pipeline) -> None:
    """Refuse a checkpoint of another data order: its `samples_seen` would mean other samples."""
    if found.manifest["fingerprint"] != pipeline.order.fingerprint:
        raise CheckpointError(
            f"{found.path} was trained on another order of data: sources, splits, weights, "
            "run.seed, data.streams or data.global_batch_size differ. Set them back, or start anew "
            "in another run.dir (with init to keep the weights)"
        )


def check(run: Run, found: Checkpoint | None, pipeline: Pipeline) -> None:
    """All that can be checked before the start; puts the checkpoint's weights into the task."""
    if found is not None:
        check_resume(found, pipeline)
        state.load_weights(run.task, found)
    manifests = _eval_manifests(run.recipe)
    predictor = Predictor(run.task, run.label)
    for name, task in run.recipe.eval.tasks.items():
        try:
            evaluator = task.build()
            evaluator.check_sources(manifests)
            evaluator.check_model(predictor)
        except ValueError as error:
            raise ConfigError(f"eval.tasks.{name}: {error}") from None


def train(run: Run, found: Checkpoint | None) -> Predictor:
    """Train to the end and return the trained model; collective, in a started process group.

    `check` has passed, and has put the checkpoint's weights into the task.
    """
    recipe = run.recipe
    sources = [(name, manifest) for name, manifest, _ in recipe.data.open_sources()]
    eval_manifests = _eval_manifests(recipe)
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
        raw=list(getattr(run.task, "mask_ratios", {})),
        quarantine=run.folder / "quarantine.jsonl",
    )
    trainer = Trainer(
        run.task,
        recipe.train,
        recipe.optim,
        global_batch_size=recipe.data.global_batch_size,
        seed=recipe.run.seed,
        deepspeed=recipe.deepspeed,
    )
    steps = iter(pipeline)
    if found is not None:
        if found.step < recipe.train.max_steps:
            steps = _restored(trainer, found, steps)
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
    if distributed.is_main():
        report.write(run.folder)
    return predictor


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
    """The steps that are left, with logging, evaluation and checkpoints."""
    config = run.recipe.train
    clock = Clock(run.recipe.data.global_batch_size)
    while trainer.step_index < config.max_steps:
        clock.start()
        micro_batches = _next(steps)
        clock.data_is_there()
        result = trainer.step(micro_batches)
        clock.step_is_done()
        step, last = trainer.step_index, trainer.step_index == config.max_steps
        if step % config.log_every == 0 or last:
            row = _row(step, pipeline, result, micro_batches, clock, config.max_steps)
            log.train(row)
            _check(result, step, pipeline)
        if last or step % config.eval_every == 0:
            evaluation.run(step)
        if last or step % config.save_every == 0:
            save(run, trainer, pipeline, step)


def _next(steps: Iterator[list[Batch]]) -> list[Batch]:
    """The next micro-batches. Where one rank has none, all ranks raise its error; collective."""
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
    return found


def save(run: Run, trainer: Trainer, pipeline: Pipeline, step: int) -> None:
    """Write the checkpoint of `step`, then delete those beyond ``train.keep_checkpoints``;
    collective.
    """

    def files(folder: Path) -> None:
        (folder / "config.yaml").write_text(dump(run.recipe), encoding="utf-8")
        preprocessing = {
            "specs": run.task.model.specs,
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
        },
        files,
        {
            "fingerprint": pipeline.order.fingerprint,
            "optimizer_scalars": state.optimizer_scalars(trainer.engine),
        },
    )
    if distributed.is_main():
        checkpoint.prune(run.checkpoints, run.recipe.train.keep_checkpoints)


class Evaluation:
    """The evaluators of the recipe's `eval` section, on the model in training."""

    def __init__(
        self,
        recipe: Recipe,
        predictor: Predictor,
        manifests: dict[str, Manifest],
        caches: Any,
        log: RunLog,
    ) -> None:
        self.predictor, self.log = predictor, log
        self.evaluators = {name: task.build() for name, task in recipe.eval.tasks.items()}
        self.data = {
            name: EvaluationSource(
                name,
                manifest,
                predictor.specs,
                batch_size=recipe.eval.batch_size,
                transforms=predictor.transforms,
                cache=caches,
            )
            for name, manifest in manifests.items()
        }

    def run(self, step: int) -> None:
        """Evaluate and log; collective."""
        for name, evaluator in self.evaluators.items():
            scores = evaluator(self.predictor, self.data)
            for score in scores:
                row = {"step": step, "split": "eval", "task": name, "metric": score.name}
                beside = {"chance": score.chance, "baseline": score.baseline, "ci95": score.ci95}
                self.log.evaluation({**row, "value": score.value, "n": score.n, **beside})
            for line in summary(scores):
                self.log.say(f"step {step}  {name}  {line}")


class Clock:
    """Seconds of the last steps: how fast, and what share was waiting for data."""

    def __init__(self, global_batch_size: int) -> None:
        self.size = global_batch_size
        self.recent: list[tuple[float, float]] = []

    def start(self) -> None:
        self._start = time.perf_counter()

    def data_is_there(self) -> None:
        self._data = time.perf_counter()

    def step_is_done(self) -> None:
        now = time.perf_counter()
        self.recent = [*self.recent[-19:], (self._data - self._start, now - self._start)]

    @property
    def seconds_a_step(self) -> float:
        return sum(total for _, total in self.recent) / len(self.recent)

    @property
    def samples_per_s(self) -> float:
        return self.size / self.seconds_a_step

    @property
    def data_wait(self) -> float:
        return sum(wait for wait, _ in self.recent) / sum(total for _, total in self.recent)


def _restored(
    trainer: Trainer, found: Checkpoint, steps: Iterator[list[Batch]]
) -> Iterator[list[Batch]]:
    """Make the optimiser's state by a step with learning rate 0, fill it, and give that step's data
    again.
    """
    first = _next(steps)
    trainer.step(first, lr=0.0)
    state.restore_optimizer(trainer.engine, found)

    def again() -> Iterator[list[Batch]]:
        yield first
        yield from steps

    return again()


def _row(
    step: int,
    pipeline: Pipeline,
    result: StepResult,
    micro_batches: list[Batch],
    clock: Clock,
    max_steps: int,
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "step": step,
        "samples_seen": step * pipeline.config.global_batch_size,
        "loss": result.loss,
    }
    for name, loss in result.losses.items():
        objective = f"{name.split('/')[0]}_loss"
        row[objective] = row.get(objective, 0.0) + loss
        row[f"{name}_loss"] = loss
    for name, value in result.scalars.items():
        row[name] = value
        row.setdefault(name.split("/")[-1], value)
    return {
        **row,
        "batch_hash": batch_hash(micro_batches),
        "lr": result.lr,
        "grad_norm": result.grad_norm,
        "samples_per_s": clock.samples_per_s,
        "data_wait": clock.data_wait,
        "eta_s": (max_steps - step) * clock.seconds_a_step,
    }


def batch_hash(micro_batches: list[Batch]) -> str:
    """sha1 over the sorted sample ids of the global batch; collective."""
    mine = [sample for batch in micro_batches for sample in batch["sample_id"]]
    everyone = sorted(s for part in distributed.all_gather_object(mine) for s in part)
    return hashlib.sha1("\n".join(everyone).encode()).hexdigest()


def _check(result: StepResult, step: int, pipeline: Pipeline) -> None:
    """Stop on all ranks together where the loss is no number or too many samples were bad."""
    if not math.isfinite(result.loss):
        raise ValueError(f"step {step}: the loss is not finite: {result.losses}")
    counts = distributed.all_gather_object(
        (sum(pipeline.bad_counts.values()), pipeline.samples_read)
    )
    bad, read = (sum(column) for column in zip(*counts, strict=True))
    check_bad_share(bad, read, pipeline.config.max_bad_share)


def _eval_manifests(recipe: Recipe) -> dict[str, Manifest]:
    opened = {}
    for name, source in recipe.eval.sources.items():
        try:
            opened[name] = Manifest.open(source.path, source.splits)
        except ValueError as error:
            raise ConfigError(f"eval.sources.{name}: {error}") from None
    return opened
