"""Runs of the tiny model with random weights, complete with recipe, metrics and results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.eval.tiny_checkpoint import make_checkpoint

CI = [0.2, 0.6]


def finish_run(folder: Path, data: Path, task: str, head: bool = False) -> Path:
    """A run's folder with a checkpoint and all that training writes beside it."""
    checkpoint = make_checkpoint(folder, head=head)
    recipe = yaml.safe_load((checkpoint / "config.yaml").read_text())
    source = {"path": str(data), "splits": ["train"]}
    recipe["data"] = {"sources": {"made_up": source}, "global_batch_size": 32}
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "environment.json").write_text(json.dumps({"device": "cpu", "cuda": None}))
    rows: list[dict[str, Any]] = []
    for step in range(1, 41):
        losses = {"contrastive_loss": 4 / step, "contrastive/image_text_loss": 4 / step}
        row = {"step": step, "split": "train", "samples_per_s": 16.0, "loss": 4 / step, **losses}
        rows.append(row)
    for step, value in ((0, 0.1), (20, 0.3), (40, 0.4)):
        score = {"step": step, "split": "eval", "task": task, "metric": "accuracy"}
        rows.append({**score, "value": value, "n": 23, "chance": 0.1, "ci95": CI, "baseline": None})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return checkpoint


def write_results(checkpoint: Path, suite: str, **scores: dict[str, Any]) -> None:
    """results.json of a checkpoint, with one score a task: ``task=dict(metric=…, value=…)``."""
    missing = dict.fromkeys(("ci95", "chance", "baseline", "baseline_name"))
    document = {
        "results": [{**missing, "task": t, "n": 23, **row} for t, row in scores.items()],
        "details": {t: {"gallery_groups": 1238} for t in scores},
    }
    folder = checkpoint.parents[1] / "eval" / suite / checkpoint.name
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(document))


def settings(folder: Path, data: Path) -> dict[str, Any]:
    """A report with every panel but that of recommendations."""
    score = {"run": "main", "suite": "s", "task": "names", "metric": "R@1"}
    entry = {"label": "art, first of {gallery_groups}", **score}
    pretrained = {"run": "main", "source": "unseen"}
    return {
        "title": "Made <up>",
        "subtitle": "A page for tests",
        "out": str(folder / "page.html"),
        "feature_cache": str(folder / "cache"),
        "batch_size": 16,
        "runs": {"main": {"path": str(folder / "main")}, "head": {"path": str(folder / "head")}},
        "sources": {
            "unseen": {"path": str(data), "splits": ["val"]},
            "known": {"path": str(data), "splits": ["train"]},
        },
        "panels": {
            "headline": {
                "type": "headline",
                "title": "What was trained",
                "run": "main",
                "held_out": ["unseen"],
                "figures": {"art": entry},
            },
            "scores": {
                "type": "scores",
                "title": "What it reached",
                "entries": {
                    "art": {**entry, "beside": {"pixels": {**score, "task": "pixels"}}},
                    "later": {**entry, "suite": "not_yet"},
                },
            },
            "curves": {
                "type": "curves",
                "title": "Learning curves",
                "run": "main",
                "scores": {"held out": {"task": "names", "metric": "accuracy"}},
            },
            "names": {"type": "neighbours", "title": "Names", "shown": 4, **pretrained},
            "spoken": {
                "type": "spoken",
                "title": "Spoken words",
                "run": "main",
                "voices": "unseen",
                "pictures": "unseen",
                "shown": 3,
            },
            "hidden": {
                "type": "reconstructions",
                "title": "Hidden",
                "shown": 2,
                "captions": {"run": "main", "source": "known"},
                **pretrained,
            },
            "map": {
                "type": "map",
                "title": "One space",
                "run": "main",
                "pictures": "unseen",
                "voices": "unseen",
                "shown": 6,
            },
            "finetune": {
                "type": "finetune",
                "title": "Before and after",
                "run": "head",
                "before": "main",
                "known": "known",
                "source": "unseen",
                "shown": 3,
                "smallest": 2,
            },
            "limits": {
                "type": "notes",
                "title": "What this is not",
                "points": {"Not large": "It is small & random."},
                "commands": ["mmfm report page.yaml"],
            },
        },
    }
