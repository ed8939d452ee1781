"""The folder of a fine-tuning run and its sources, made without training: what report.html is made
of.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import soundfile
import yaml
from PIL import Image

from mmfm_eval.mistakes import Mistake
from mmfm_eval.tasks.base import Findings, Score

EVIL = "<script>alert('x')</script>"


def make_source(folder: Path, samples: int = 4) -> Path:
    """A tar of samples ``s/0`` … with a picture, a sound, tokens in every second one, else a text
    that wants to be a script.
    """
    folder.mkdir(parents=True)
    picture, sound = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(picture, "PNG")
    soundfile.write(sound, np.zeros(400), 8000, format="WAV")
    with tarfile.open(folder / "a.tar", "w") as tar:
        for i in range(samples):
            words = {"tokens": f"Ada of {EVIL} left".split()} if i % 2 else {"texts": [EVIL]}
            meta = {"id": f"s/{i}", **words}
            files = {"json": json.dumps(meta).encode()}
            files |= {"png": picture.getvalue(), "wav": sound.getvalue()}
            for ending, content in files.items():
                info = tarfile.TarInfo(f"{i:03d}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return folder


def mistake(number: int, **more: Any) -> Mistake:
    """Of the sample ``s/<number>`` in the source `held_out`."""
    about: dict[str, Any] = {"source": "held_out", "id": f"s/{number}", "wrong": 1.0}
    return Mistake(**{**about, "right": f"ring {number}", "said": f"star{EVIL}", **more})


class Folder:
    """A run in `path` that evaluates what is in `source`."""

    def __init__(self, path: Path, source: Path, **train: Any) -> None:
        self.path = path
        path.mkdir(parents=True)
        held_out = {"path": str(source), "splits": None, "modalities": None, "subset": None}
        self.recipe: dict[str, Any] = {
            "run": {"dir": str(path), "seed": 3},
            "init": "runs/pretrained",
            "head": {"type": "classification", "label": "shape"},
            "model": {"encoders": {"image": {}}},
            "data": {
                "sources": {"train": {"path": "data/train", "splits": ["train"]}},
                "global_batch_size": 8,
            },
            "train": {"max_steps": 20, "keep_best": None, **train},
            "eval": {"sources": {"held_out": held_out}, "tasks": {}},
            "test": {"sources": {}, "tasks": {}},
        }
        about = {"device": "cpu", "weights": {"total": 2000, "trained": 50}}
        (path / "environment.json").write_text(json.dumps(about))
        for step in range(10, 21, 10):
            row = {"step": step, "split": "train", "loss": 1 / step, "head_loss": 1 / step}
            more = {"samples_seen": 8 * step, "samples_per_s": 4.0}
            self.log({**row, **more, "samples/train": 8 * step, "epochs/train": 0.5})
        self._save()

    def log(self, row: dict[str, Any]) -> None:
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def evaluate(
        self,
        step: int,
        task: str,
        scores: Sequence[Score],
        details: dict[str, Any] | None = None,
        mistakes: Sequence[Mistake] = (),
        kind: str = "classification",
    ) -> None:
        """What an evaluation logs and keeps."""
        self.recipe["eval"]["tasks"][task] = {"type": kind, "source": "held_out"}
        self._save()
        for s in scores:
            row = {"step": step, "split": "eval", "task": task, "metric": s.name}
            self.log({**row, **{k: v for k, v in s._asdict().items() if k != "name"}})
        found = Findings(list(scores), details or {}, list(mistakes))
        self.keep(f"step_{step:08d}", task, found)

    def keep(self, name: str, task: str, found: Findings) -> None:
        folder = self.path / "evaluation" / name
        folder.mkdir(parents=True, exist_ok=True)
        document = {
            "task": task,
            "scores": [s._asdict() for s in found.scores],
            "details": found.details,
            "mistakes": [asdict(m) for m in found.mistakes],
        }
        (folder / f"{quote(task, safe=' ')}.json").write_text(json.dumps(document))

    def test(self, task: str, scores: Sequence[Score], details: dict[str, Any]) -> None:
        """What the look at the test leaves, of a run whose `init` had seen a sample of it."""
        names = ("value", "n", "ci95", "chance", "baseline", "baseline_name")
        rows = [
            {"task": task, "metric": s.name, **{name: getattr(s, name) for name in names}}
            for s in scores
        ]
        about = {"checkpoint": "step_00000020", "step": 20, "weights": "model"}
        about["seen_before"] = ["test.sources.a<b shares samples with another"]
        (self.path / "test.json").write_text(json.dumps({**about, "results": rows}))
        self.keep("test", task, Findings(list(scores), details, []))

    def _save(self) -> None:
        (self.path / "config.yaml").write_text(yaml.safe_dump(self.recipe))
