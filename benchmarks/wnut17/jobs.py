"""Runs on WNUT-17: their data, commands and scores."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.seeded import MMFM, ROOT, SeededRun, metric, tested

RECIPE = ROOT / "configs/finetune/wnut17.yaml"
CACHE = Path.home() / ".cache/mmfm-benchmarks/wnut17"


@dataclass(frozen=True)
class Made:
    """The folder of all runs, with the shards of the sentences and the weights of MiniLM."""

    runs: Path

    @property
    def data(self) -> Path:
        return self.runs / "data"

    @property
    def weights(self) -> Path:
        return self.runs / "minilm"

    @classmethod
    def of(cls, conll: Path, runs: Path) -> Made:
        """Make what isn't there; `conll` holds train.conll, dev.conll and test.conll."""
        made = cls(runs)
        if not (made.data / "manifest.json").exists():
            subprocess.run([*MMFM, "data", "make", "conll", str(conll), str(made.data)], check=True)
        if not made.weights.exists():
            subprocess.run([*MMFM, "data", "weights", "minilm", str(made.weights)], check=True)
        return made


@dataclass(frozen=True)
class Job(SeededRun):
    """One run: of mmfm with settings `more`, or of transformers' Trainer (`theirs`)."""

    made: Made
    way: str
    lr: float
    seed: int
    epochs: float
    more: tuple[str, ...] = ()
    theirs: bool = False

    @property
    def folder(self) -> Path:
        return self.made.runs / f"{self.epochs:g}-epochs" / f"{self.way}-{self.lr:g}-{self.seed}"

    def command(self) -> list[str]:
        """What is run."""
        data, weights = str(self.made.data), str(self.made.weights)
        if self.theirs:
            options = {"--lr": self.lr, "--seed": self.seed, "--epochs": self.epochs}
            return [
                *(sys.executable, "-m", "benchmarks.wnut17.theirs", weights, data),
                str(self.folder / "scores.json"),
                *(str(word) for option in options.items() for word in option),
            ]
        return [
            *(*MMFM, "finetune", str(RECIPE)),
            f"run.dir={self.folder}",
            f"run.seed={self.seed}",
            "run.trackers=[]",
            f"model.encoders.text.name={weights}",
            f"data.sources.train.path={data}",
            *(f"eval.sources.{name}.path={data}" for name in ("dev", "train")),
            *(f"test.sources.{name}.path={data}" for name in ("test", "train")),
            f"train.epochs={self.epochs}",
            f"optim.lr={self.lr}",
            *self.more,
        ]

    def scores(self) -> dict[str, float]:
        """Entity F1 on dev and test of a run that is done."""
        if self.theirs:
            found = json.loads((self.folder / "scores.json").read_text())
            return {split: found[split] for split in ("dev", "test")}
        found = metric(self.folder, "entity_f1")
        return {"dev": found["eval"], "test": found["test"]}

    def baseline(self) -> tuple[float, float]:
        """Entity F1 on test of the dictionary, and by chance."""
        row = tested(self.folder, "entity_f1")
        return row["baseline"], row["chance"]
