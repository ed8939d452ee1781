"""A checkpoint of the tiny tri-modal model with random weights, and a small synthetic set."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from mmfm_prep.make import make, source_config

from mmfm import checkpoint
from tests import tiny


def make_data(folder: Path) -> Path:
    make(source_config("synthetic", ["train_samples=30", "val_samples=23"]), folder)
    return folder


def make_checkpoint(folder: Path) -> Path:
    tokenizer = tiny.make_tokenizer(folder / "tokenizer")
    task = tiny.make_task(tokenizer)
    recipe = {"run": {"seed": 0}, **tiny.task_settings(tokenizer)}

    def write_files(hidden: Path) -> None:
        (hidden / "config.yaml").write_text(yaml.safe_dump(recipe))
        described = {"specs": task.model.specs, "label": None}
        (hidden / "preprocessing.json").write_text(json.dumps(described))
        for name, encoder in task.model.encoders.items():
            encoder.save_assets(hidden / "assets" / name)

    tensors = {"model": task.state_dict().items()}
    return checkpoint.write(folder / "checkpoints", 1, 32, tensors, write_files, {})
