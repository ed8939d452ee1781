"""Predictors out of checkpoints, and tasks out of recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mmfm import distributed
from mmfm.checkpoint import Checkpoint, CheckpointError
from mmfm.config import component, from_dict
from mmfm.data.decode import TRANSFORMS
from mmfm.layers.lora import is_wrapped, of_lora
from mmfm.lora import all_parts
from mmfm.predictor.core import Predictor
from mmfm.task import FinetuneTask, FinetuneTaskConfig, PretrainTask, PretrainTaskConfig, Task
from mmfm.teaching import taught_names
from mmfm.types import Label


def load(path: str | Path, device: str | torch.device | None = None) -> Predictor:
    """The model of a checkpoint (its folder, or a run's folder for the latest), in evaluation mode;
    with ``/ema`` behind the path the average of its weights over its training.

    Nothing but the folder is needed. CheckpointError where it is missing, broken or of another
    version.
    """
    checkpoint = Checkpoint.open(path)
    raw = checkpoint.config
    stored = checkpoint.preprocessing["label"]
    label = Label(*stored) if stored else None
    names = label.names if label else ()
    task = build(raw, label_names=names, assets=checkpoint.assets, for_use=True)
    trained = [*raw.get("objectives", {}), *taught_names(task.model)]
    left_out = tuple(f"objectives.{name}." for name in trained if name not in task.objectives)
    found = {
        name: tensor
        for name, tensor in checkpoint.model_tensors().items()
        if not name.startswith(left_out)
    }
    wanted = task.state_dict()
    if set(found) != set(wanted):
        off = sorted(set(found) ^ set(wanted))
        raise CheckpointError(
            f"{checkpoint.path}: its weights don't fit its own config, or another "
            f"version of mmfm wrote it: {off[:3]}"
        )
    task.load_state_dict(found)
    task.to(device if device is not None else distributed.device()).eval()
    return Predictor(
        task,
        label,
        config=raw,
        assets=checkpoint.assets,
        transforms=transforms_of(checkpoint),
    )


def transforms_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The settings of the transforms by modality that a checkpoint was trained with."""
    return {
        modality: component(settings, TRANSFORMS, f"transforms.{modality}")
        for modality, settings in checkpoint.preprocessing["transforms"].items()
    }


def build(
    raw: Mapping[str, Any],
    label_names: Sequence[str] = (),
    assets: Path | None = None,
    for_use: bool = False,
) -> Task:
    """The task of a recipe given as a plain mapping: with ``objectives`` a `PretrainTask`, with
    ``head`` a `FinetuneTask`; its other sections are not looked at. `for_use`: without the
    objectives, and the teacher, that only training needs.
    """
    if "head" in raw:
        keys = ("model", "head", "lora", *(() if for_use else ("teacher",)))
        parts = {key: raw[key] for key in keys if key in raw}
        return FinetuneTask.build(from_dict(FinetuneTaskConfig, parts), label_names, assets)
    parts = {key: raw[key] for key in ("model", "objectives") if key in raw}
    return PretrainTask.build(from_dict(PretrainTaskConfig, parts), assets, for_use)


def untrained(predictor: Predictor, seed: int) -> Predictor:
    """The same network with the weights that training would start from, drawn anew by `seed`.

    A frozen encoder keeps its weights, and so does what LoRA is put beside. An encoder that was
    pretrained elsewhere and then trained along starts at random here, not where training started.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        label_names = predictor.label.names if predictor.label else ()
        task = build(predictor.config, label_names, predictor.assets, for_use=True)
    for name, part in all_parts(predictor.model).items():
        if is_wrapped(part) or getattr(part, "frozen", False):
            kept = {n: t for n, t in part.state_dict().items() if not of_lora(n)}
            all_parts(task.model)[name].load_state_dict(kept, strict=False)
    task.to(predictor.device).eval()
    return Predictor(
        task,
        predictor.label,
        config=predictor.config,
        assets=predictor.assets,
        transforms=predictor.transforms,
    )
