"""The table of a report's scores on the terminal."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from mmfm.checkpoint import FORMAT
from mmfm.config import from_dict
from mmfm_eval.report import summary
from mmfm_eval.report.config import ReportConfig


def entry(label: str, run: str) -> dict[str, Any]:
    return {"label": label, "run": run, "suite": "pets", "task": "names", "metric": "R@1"}


def make_run(folder: Path) -> None:
    step = folder / "checkpoints" / "step_00000007"
    step.mkdir(parents=True)
    (folder / "config.yaml").write_text("{}")
    (step / "manifest.json").write_text(json.dumps({"format": FORMAT, "step": 7, "files": {}}))
    (step.parent / "latest").write_text(step.name)
    score = {"task": "names", "metric": "R@1", "value": 0.5, "n": 40, "ci95": [0.35, 0.65]}
    score |= {"chance": 0.025, "baseline": 0.41, "baseline_name": "nearest pixels"}
    found = folder / "eval" / "pets" / step.name
    found.mkdir(parents=True)
    document = {"results": [score], "details": {"names": {"gallery_groups": 1238}}}
    (found / "results.json").write_text(json.dumps(document))


def test_scores_stand_with_chance_and_baseline_and_what_has_not_run_too(tmp_path: Path) -> None:
    make_run(tmp_path / "there")
    runs = {name: {"path": str(tmp_path / name)} for name in ("there", "missing")}
    entries = {
        "a": entry("art, first of {gallery_groups}", "there"),
        "b": entry("films, first of {gallery_groups}", "missing"),
    }
    panel = {"type": "scores", "title": "What it reached", "entries": entries}
    raw = {"title": "t", "runs": runs, "sources": {}, "panels": {"scores": panel}}
    console = Console(file=io.StringIO(), width=120)
    summary.show(from_dict(ReportConfig, raw), console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert re.search(
        r"art, first of 1,238 +50\.0 % +35\.0 – 65\.0 % +2\.5 % +nearest pixels 41\.0 %", text
    )
    assert re.search(r"films, first of … +not run", text)
