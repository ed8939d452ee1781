"""A checkpoint of the tiny tri-modal model with random weights, and a small synthetic set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from mmfm import checkpoint
from mmfm.predictor import build
from mmfm_prep.make import make, source_config
from tests import tiny


def make_data(folder: Path) -> Path:
    make(source_config("synthetic", ["train_samples=30", "val_samples=23"]), folder)
    return folder


SHAPES = ["circle", "cross", "ring", "square", "star", "triangle"]


def make_checkpoint(
    folder: Path,
    head: bool = False,
    transforms: Mapping[str, Any] | None = None,
    seed: int = 0,
    objectives: Mapping[str, Any] | None = None,
) -> Path:
    """A pretrained model with `objectives` beside its own, or one with a head for the shapes of the
    synthetic set.
    """
    tokenizer = tiny.make_tokenizer(folder / "tokenizer")
    recipe: dict[str, Any] = {"run": {"seed": 0}, **tiny.task_settings(tokenizer)}
    recipe["objectives"] |= objectives or {}
    if head:
        del recipe["objectives"]
        recipe["head"] = {"type": "classification", "label": "shape", "modalities": ["image"]}
    torch.manual_seed(seed)
    task = build(recipe, SHAPES if head else ())
    for name, parameter in task.named_parameters():
        if name.endswith("predict.weight"):  # patches are predicted as nothing before training
            torch.nn.init.normal_(parameter, std=0.1)
        if name.endswith("head.classifier.weight"):  # all classes equally sure, the first is taken
            torch.nn.init.zeros_(parameter)

    def write_files(hidden: Path) -> None:
        (hidden / "config.yaml").write_text(yaml.safe_dump(recipe))
        label = ["shape", SHAPES] if head else None
        described = {
            "specs": task.model.specs,
            "transforms": dict(transforms or {}),
            "label": label,
        }
        (hidden / "preprocessing.json").write_text(json.dumps(described))
        for name, encoder in task.model.encoders.items():
            encoder.save_assets(hidden / "assets" / name)

    tensors = {"model": task.state_dict().items()}
    return checkpoint.write(folder / "checkpoints", 1, 32, tensors, write_files, {})
