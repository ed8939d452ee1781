"""Trials whose processes only write metrics.jsonl, so that a search takes seconds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mmfm.tune.space import Search, read_search
from tests.tiny_heads import recipe

BY = {"task": "colour", "metric": "accuracy"}
SPACE = {"optim.lr": {"low": 0.001, "high": 1.0}, "freeze": ["none", "encoders"]}

SCRIPT = """
import json, sys, time, yaml, pathlib
raw = yaml.safe_load(open(sys.argv[1]))
folder = pathlib.Path(raw["run"]["dir"])
(folder / "checkpoints").mkdir(parents=True, exist_ok=True)
lr = raw["optim"]["lr"]
def tell(step, value, **more):
    row = {"step": step, "split": "eval", "task": "colour", "metric": "accuracy", "value": value}
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps({**row, **more}) + chr(10))
"""


def command(body: str):
    """What takes the place of `mmfm.tune.trial.command`: a process that runs `body` with ``lr`` and
    ``tell(step, value)``.
    """
    return lambda name, path: [sys.executable, "-c", SCRIPT + body, str(path)]


def make_search(folder: Path, **sections: Any) -> Search:
    sections = {"search": SPACE, "search_by": BY, **sections}
    return read_search(recipe(folder, Path("data"), **sections))
