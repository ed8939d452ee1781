"""Where a run continues: at which checkpoint, whether it fits, and its optimiser state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmfm import checkpoint
from mmfm.checkpoint import Checkpoint, CheckpointError
from mmfm.config import ConfigError, to_dict
from mmfm.data.pipeline import Pipeline
from mmfm.train.engine import state
from mmfm.train.optim import frozen_until
from mmfm.train.optim.groups import thawed
from mmfm.train.recipe import Recipe
from mmfm.train.trainer import Trainer
from mmfm.types import Batch

_ORDER = ("streams", "global_batch_size", "block_shards")
_OF_SOURCE = ("splits", "modalities", "subset", "weight")


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
    own = checkpoint.latest(folder / "checkpoints") if folder.exists() else None
    if how != "auto":
        named = Checkpoint.open(how)
        if named.weights == "ema":
            raise ConfigError(
                f"run.resume = {how}: a run goes on from the weights themselves, and has their "
                "averages beside; name the checkpoint, or let a new run begin with init"
            )
        # The run has got further since it left a path outside; one of its own is what is asked for.
        if own is None or named.path.parent == own.resolve().parent:
            return named
    return None if own is None else _newest(own)


def _newest(path: Path) -> Checkpoint:
    """The run's newest checkpoint; where it was damaged later, the error names the one before."""
    try:
        return Checkpoint.open(path)
    except CheckpointError as error:
        older = [p for p in sorted(path.parent.glob("step_*")) if p.name < path.resolve().name]
        if not older:
            raise
        raise CheckpointError(
            f"{error}: run.resume={older[-1]} goes on from the one before"
        ) from None


def check_resume(found: Checkpoint, pipeline: Pipeline) -> None:
    """Refuse a checkpoint of another data order: its `samples_seen` would mean other samples."""
    if found.manifest["fingerprint"] != pipeline.order.fingerprint:
        raise CheckpointError(
            f"{found.path} was trained on another order of data: {_what_differs(found, pipeline)}. "
            "Set it back, or start anew in another run.dir (with init to keep the weights)"
        )


def _what_differs(found: Checkpoint, pipeline: Pipeline) -> str:
    data = to_dict(pipeline.config)
    there = dict(_order_settings(found.config["run"]["seed"], found.config["data"]))
    here = dict(_order_settings(pipeline.order.seed, data))
    told = [
        f"{key} is {there.get(key)} there and {here.get(key)} here"
        for key in there | here
        if there.get(key) != here.get(key)
    ]
    return "; ".join(told) or "the shards, or what is in them, are others"


def _order_settings(seed: int, data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings, by dotted name, that decide which samples a step holds."""
    yield "run.seed", seed
    yield from ((f"data.{key}", data[key]) for key in _ORDER)
    for name, source in data["sources"].items():
        yield from ((f"data.sources.{name}.{key}", source.get(key)) for key in _OF_SOURCE)


def restored(
    trainer: Trainer, found: Checkpoint, steps: Iterator[list[Batch]]
) -> Iterator[list[Batch]]:
    """Make the optimiser's state by a step with learning rate 0, fill it, and give that step's data
    again.
    """
    first = next(steps)
    stored = tuple(f"{kind}-" for kind in ("optimizer", "ema"))
    # None where every step so far was left out.
    if any(name.startswith(stored) for name in found.manifest["files"]):
        if trainer.config.precision == "fp16":  # a step that overflows makes no state
            state.set_loss_scaler(trainer.engine, {"cur_scale": 1.0})
        trainer.step(first, lr=0.0)
        until = frozen_until(trainer.task, trainer.optim)
        fresh = thawed(trainer.task, until, found.step)
        state.restore_optimizer(trainer.engine, found, fresh)
        state.restore_buffers(trainer.engine, found)
    state.restore_full_weights(trainer.engine, found)
    state.set_loss_scaler(trainer.engine, found.manifest["loss_scaler"])

    def again() -> Iterator[list[Batch]]:
        yield first
        yield from steps

    return again()
