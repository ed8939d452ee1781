"""A run's folder as the page reads it: recipe, environment, metrics, checkpoint, results."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from mmfm.checkpoint import Checkpoint
from mmfm_eval.report.config import RunConfig
from mmfm_eval.report.missing import Missing

Json = dict[str, Any]


class Run:
    """One run; Missing where it has not been trained. What else lacks is said where it is read."""

    def __init__(self, name: str, config: RunConfig) -> None:
        self.name = name
        self.path = Path(config.path)
        if not (self.path / "config.yaml").is_file():
            how = f"run `{config.made_by}`" if config.made_by else "train it"
            raise Missing(f"There is no run in {config.path} yet: {how}.")

    @cached_property
    def recipe(self) -> Json:
        """The complete, resolved recipe."""
        found = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
        assert isinstance(found, dict)
        return found

    @cached_property
    def environment(self) -> Json:
        """Machine and versions; empty where the run has not noted them."""
        path = self.path / "environment.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The latest one."""
        try:
            return Checkpoint.open(self.path, verify=False)
        except ValueError as error:
            raise Missing(f"{self.path} has no checkpoint yet ({error}).") from None

    @cached_property
    def _metrics(self) -> list[Json]:
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            raise Missing(f"{self.path} has no metrics.jsonl: the run logged nothing.")
        lines = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.strip()]

    @cached_property
    def training(self) -> dict[int, Json]:
        """Step ▶ its row, the last one where a step was run again."""
        rows = {r["step"]: r for r in self._metrics if r.get("split") == "train"}
        return dict(sorted(rows.items()))

    @cached_property
    def evaluations(self) -> dict[tuple[str, str], dict[int, Json]]:
        """(task, metric) ▶ step ▶ the row of the evaluation in the training loop."""
        found: dict[tuple[str, str], dict[int, Json]] = {}
        for row in self._metrics:
            if "metric" in row and row.get("split") != "test":
                found.setdefault((row["task"], row["metric"]), {})[row["step"]] = row
        return {key: dict(sorted(rows.items())) for key, rows in found.items()}

    def results(self, suite: str) -> Json:
        """results.json of the latest checkpoint in `suite`."""
        path = self.path / "eval" / suite / self.checkpoint.path.name / "results.json"
        if not path.is_file():
            raise Missing(
                f"The suite {suite} has not been run on the latest checkpoint: "
                f"`mmfm eval {self.path} SUITE.yaml`, with the file of that suite."
            )
        found = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(found, dict)
        return found
