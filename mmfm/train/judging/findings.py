"""What an evaluation found besides its scores, kept in the run's folder for report.html: details
and worst mistakes.

    evaluation/step_00000106/entities.json
    evaluation/test/entities.json

Of the steps only the first stays, the newest, and the best by `train.keep_best`.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mmfm import checkpoint
from mmfm.files import write_json
from mmfm.train.judging.best import KeepBest

FOLDER = "evaluation"
TEST = "test"


def keep(run: Path, step: int | None, task: str, found: Any) -> None:
    """Keep what an evaluator's `examine` gave, of `step`, None for the test."""
    folder = run / FOLDER / (TEST if step is None else checkpoint.name_of(step))
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "task": task,
        "scores": [score._asdict() for score in found.scores],
        "details": found.details,
        "mistakes": [asdict(mistake) for mistake in found.mistakes],
    }
    write_json(folder / f"{quote(task, safe=' ')}.json", document)


def prune(run: Path, newest: int, by: KeepBest | None) -> None:
    """Delete the findings of all steps but those that stay."""
    steps = sorted((run / FOLDER).glob("step_*"))
    best = None if by is None else _best(steps, by)
    stay = {steps[0], best, run / FOLDER / checkpoint.name_of(newest)}
    for step in steps:
        if step not in stay:
            shutil.rmtree(step, ignore_errors=True)


def _best(steps: list[Path], by: KeepBest) -> Path | None:
    """None of step 0, which no checkpoint is of."""
    values = {}
    for place, step in enumerate(steps):
        path = step / f"{quote(by.task, safe=' ')}.json"
        if step.name == checkpoint.name_of(0) or not path.is_file():
            continue
        scores = json.loads(path.read_text(encoding="utf-8"))["scores"]
        values[place] = next(float(s["value"]) for s in scores if s["name"] == by.metric)
    best = by.best_step(values)
    return None if best is None else steps[best]
