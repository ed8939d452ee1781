"""What the evaluations of a run left in its folder: scores before and after, details, mistakes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmfm import checkpoint
from mmfm_eval.report.config import RunConfig
from mmfm_eval.report.run import Run
from mmfm_eval.tasks.base import Score

Pair = tuple[Score | None, Score]
"""A score at step 0, and the one after."""


@dataclass(frozen=True)
class Found:
    """What a task found besides its scores: `details`, and the mistakes as plain JSON."""

    details: dict[str, Any]
    mistakes: list[dict[str, Any]]


class Findings:
    """A run and its evaluations. `after`: the step that is handed out, None before the first one:
    the best where that is kept, else the last.
    """

    def __init__(self, folder: Path) -> None:
        self.run = Run(folder.name, RunConfig(path=str(folder)))
        self.folder = folder

    @cached_property
    def after(self) -> int | None:
        steps = sorted({step for rows in self.run.evaluations.values() for step in rows})
        best = self.best
        if best is not None and best["step"] in steps:
            return int(best["step"])
        return steps[-1] if steps else None

    @cached_property
    def best(self) -> dict[str, Any] | None:
        """What is said of the best checkpoint, where the recipe keeps it."""
        kept = self.run.recipe["train"].get("keep_best") is not None
        return checkpoint.best(self.folder / "checkpoints") if kept else None

    @cached_property
    def scores(self) -> dict[str, list[Pair]]:
        """By task every score of the step `after`, with that of step 0."""
        found: dict[str, list[Pair]] = {}
        for (task, _), rows in self.run.evaluations.items():
            if self.after in rows:
                before = _score(rows[0]) if 0 in rows and self.after != 0 else None
                found.setdefault(task, []).append((before, _score(rows[self.after])))
        return found

    @cached_property
    def found(self) -> dict[str, Found]:
        """By task what the evaluation at the step `after` kept; none of a run without such."""
        return {} if self.after is None else self._read(checkpoint.name_of(self.after))

    @cached_property
    def test(self) -> dict[str, Any] | None:
        """What test.json says, with the scores as `scores` by task and what was kept as `found`."""
        path = self.folder / "test.json"
        if not path.is_file():
            return None
        told = json.loads(path.read_text(encoding="utf-8"))
        scores: dict[str, list[Pair]] = {}
        for row in told["results"]:
            scores.setdefault(row["task"], []).append((None, _score(row)))
        return {**told, "scores": scores, "found": self._read("test")}

    def _read(self, name: str) -> dict[str, Found]:
        found = {}
        for path in sorted((self.folder / "evaluation" / name).glob("*.json")):
            told = json.loads(path.read_text(encoding="utf-8"))
            found[told["task"]] = Found(told["details"], told["mistakes"])
        return found


def _score(row: Mapping[str, Any]) -> Score:
    ci95 = row.get("ci95")
    return Score(
        row["metric"],
        row["value"],
        row["n"],
        None if ci95 is None else (ci95[0], ci95[1]),
        row.get("chance"),
        row.get("baseline"),
        row.get("baseline_name"),
    )
