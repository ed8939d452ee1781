"""A small set of items and histories, and a recipe that learns from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mmfm_prep.sample import Sample
from mmfm_prep.writer import DatasetWriter, write_json
from tests import tiny

ITEMS = [f"item/{i}" for i in range(12)]
COLOURS = ("red", "blue", "green")
SHAPES = ("dot", "box", "bar", "tone")


def history(user: int) -> list[str]:
    """Of 1 to 9 items, each followed by the one `1 + user % 2` further on."""
    return [ITEMS[(user + k * (1 + user % 2)) % 12] for k in range(1 + user % 9)]


def make_data(folder: Path, users: int = 40, texts: dict[int, Any] | None = None) -> Path:
    """`texts`: item's number ▶ its texts in the place of those that fit."""
    folder.mkdir()
    with DatasetWriter(folder, samples_per_shard=16) as writer:
        for number, item in enumerate(ITEMS):
            text = {"en": [f"a {COLOURS[number % 3]} {SHAPES[number // 3]}"]}
            content = (texts or {}).get(number, text)
            meta = {"texts": content} if content else {}
            writer.write(sample(f"{number:03d}", item, "items", texts=content, meta=meta))
        for user in range(users):
            name = f"user/{user:03d}"
            writer.write(sample(f"{user:03d}", name, "users", history=history(user)))
    write_json(folder / "manifest.json", writer.manifest())
    return folder


def sample(key: str, name: str, split: str, **content: Any) -> Sample:
    return Sample(key=key, id=name, group=name, split=split, **content)


def write_recipe(folder: Path, data: Path) -> str:
    """A recommendation head on a frozen text encoder that starts at random; dropout is on."""
    settings = tiny.task_settings(tiny.make_tokenizer(folder / "tokenizer"))
    text = {**settings["model"]["encoders"]["text"], "frozen": True}
    recipe = {
        "run": {"dir": str(folder / "run"), "feature_cache": str(folder / "cache")},
        "model": {"embed_dim": 16, "encoders": {"text": text}},
        "freeze": "model",
        "head": {
            "type": "recommendation",
            "items": {"path": str(data), "splits": ["items"]},
            "width": 16,
            "max_length": 4,
            "dropout": 0.1,
        },
        "data": {
            "sources": {"users": {"path": str(data), "splits": ["users"]}},
            "global_batch_size": 16,
            "streams": 4,
            "workers": 0,
        },
        "optim": {"lr": 0.01},
        "train": {"max_steps": 6, "save_every": 3, "eval_every": 6},
        "eval": {
            "sources": {"users": {"path": str(data), "splits": ["users"]}},
            "tasks": {"next": {"type": "recommendation", "source": "users", "k": 3}},
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return str(path)
