"""Runs of configs/pretrain/tiny.yaml on a small set, and what they left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmfm.train.log import read_metrics
from tests import tiny
from tests.launch import ROOT

TINY = str(ROOT / "configs/pretrain/tiny.yaml")
IN_PARTS = f"deepspeed={json.dumps(tiny.IN_PARTS)}"
SMALL_MODEL = [
    f"model.{part}.{key}"
    for part in ("encoders.image", "encoders.text", "encoders.audio", "fusion")
    for key in ("width=16", "layers=1", "heads=2")
] + [
    *(f"objectives.masked_{m}.decoder_width=16" for m in ("image", "audio")),
    "objectives.caption.width=16",
]


def pretrain(data: Path, run: Path, *more: str) -> list[str]:
    """Arguments of ``mmfm`` for a short run of a small model on `data` into `run`."""
    return [
        "pretrain",
        TINY,
        *on(data, run),
        *SMALL_MODEL,
        "train.max_steps=8",
        "train.save_every=3",
        "train.eval_every=100",
        "train.keep_checkpoints=10",
        "eval.tasks={}",
        *more,
    ]


def on(data: Path, run: Path) -> list[str]:
    """The overrides that put tiny.yaml's data at `data` and its run at `run`."""
    return [
        f"run.dir={run}",
        f"data.sources.synthetic.path={data}",
        f"eval.sources.held_out.path={data}",
        f"model.encoders.text.tokenizer={data / 'tokenizer'}",
    ]


def training(run: Path) -> dict[int, dict[str, Any]]:
    """Step ▶ its row of metrics.jsonl, the last one where it was run again."""
    rows = read_metrics(run / "metrics.jsonl")
    return {row["step"]: row for row in rows if row.get("split") == "train"}


def exact(run: Path) -> dict[int, dict[str, Any]]:
    """What must be the same in two runs: everything of each step but times and memory."""
    times = {"samples_per_s", "tokens_per_s", "data_wait", "eta_s", "mfu", "memory_gb"}
    return {s: {k: v for k, v in r.items() if k not in times} for s, r in training(run).items()}


def manifest(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "manifest.json").read_text())
