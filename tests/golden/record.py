"""Record the losses of 20 steps of two recipes; `test_golden.py` compares with them.

    python -m tests.golden.record

Record them anew only where a change is meant to change training, and say so in the commit.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from mmfm.cli import main as mmfm
from mmfm_prep.cli import main as data
from tests.tiny_runs import TINY, on, training

FOLDER = Path(__file__).parent
STEPS = 20
SYNTHETIC = ["train_samples=240", "val_samples=80", "samples_per_shard=40"]
RECIPES: dict[str, list[str]] = {
    "tiny": [],
    "cached": [
        "train.micro_batch_size=8",
        "train.zero_stage=2",
        "train.recompute_activations=true",
        "optim.schedule=wsd",
        "optim.warmup_steps=4",
        "optim.decay_steps=8",
        "optim.ema={decay: 0.9}",
        "optim.layer_decay={image: 0.7}",
        "model.fusion.dropout=0.1",
        "objectives.matching.start_step=5",
        "objectives.contrastive.equal_group=positive",
    ],
}


def losses(name: str, shards: Path, run: Path) -> list[dict[str, Any]]:
    """For each step the losses of a recipe and the hash of its samples."""
    more = [f"train.max_steps={STEPS}", "train.save_every=100", "eval.tasks={}"]
    assert mmfm(["pretrain", TINY, *on(shards, run), *more, *RECIPES[name]]) == 0
    rows = training(run)
    kept = [key for key in rows[1] if key.endswith("_loss")]
    keys = ("loss", *kept, "batch_hash")
    return [{key: rows[step][key] for key in keys} for step in sorted(rows)]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder, "synthetic")
        assert data(["make", "synthetic", str(shards), *SYNTHETIC]) == 0
        for name in RECIPES:
            found = losses(name, shards, Path(folder, name))
            lines = ",\n".join(json.dumps(row) for row in found)
            (FOLDER / f"{name}.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
