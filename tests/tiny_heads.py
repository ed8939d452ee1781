"""A recipe that fine-tunes a small picture encoder from scratch, in about a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mmfm.train.log import read_metrics

SMALL = {"type": "vision_transformer", "image_size": 16, "patch_size": 8}
COLOUR = {"type": "classification", "source": "held_out"}


def recipe(folder: Path, data: Path, /, **sections: Any) -> str:
    """The path of a recipe whose run is ``folder/run``; `sections` are added to its own."""
    val = {"path": str(data), "splits": ["val"], "modalities": ["image"]}
    raw: dict[str, Any] = {
        "run": {"dir": str(folder / "run"), "trackers": []},
        "model": {
            "embed_dim": 16,
            "encoders": {"image": {**SMALL, "width": 16, "layers": 1, "heads": 2}},
        },
        "head": {"type": "classification", "label": "colour", "modalities": ["image"]},
        "data": {
            "sources": {"pictures": {**val, "splits": ["train"]}},
            "global_batch_size": 32,
            "workers": 0,
        },
        "optim": {"lr": 3e-3},
        "train": {"max_steps": 6, "eval_every": 2, "save_every": 6},
        "eval": {
            "sources": {
                "held_out": {"path": str(data), "splits": ["val"], "modalities": ["image"]}
            },
            "tasks": {"colour": COLOUR},
        },
    }
    for name, section in sections.items():
        raw[name] = {**raw.get(name, {}), **section}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw))
    return str(path)


def accuracy(run: Path, split: str = "eval") -> dict[int, float]:
    """Step ▶ accuracy, from metrics.jsonl."""
    rows = [r for r in read_metrics(run / "metrics.jsonl") if r.get("metric") == "accuracy"]
    return {row["step"]: row["value"] for row in rows if row["split"] == split}
