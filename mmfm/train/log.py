"""What a run tells: a progress line, metrics.jsonl, log.txt, trackers."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmfm.files import hold, let_go
from mmfm.train.trackers import Tracker

logger = logging.getLogger("mmfm")


class RunLog:
    """The log of a run, on rank 0; on other ranks it does nothing. `trackers` get its numbers too.

    metrics.jsonl only grows. A step that is run again must agree with the first time where that is
    exact.
    """

    def __init__(
        self, folder: Path, main: bool, max_steps: int, trackers: Sequence[Tracker] = ()
    ) -> None:
        self.main = main
        self.folder = folder
        self.trackers = trackers
        self._seen: dict[int, str] = {}
        if not main:
            return
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "log.txt").touch()
        self._metrics_path = folder / "metrics.jsonl"
        self._metrics = self._metrics_path.open("a", encoding="utf-8")
        if not hold(self._metrics):
            raise ValueError(f"run.dir = {folder} is of a run that is going on: name another one")
        self._seen = _batch_hashes(self._metrics_path)
        _end_line(self._metrics_path)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[line]}"),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            disable=not sys.stderr.isatty(),
        )
        self._bar = self._progress.add_task("step", total=max_steps, line="")
        self._progress.start()

    def event(self, name: str, **fields: Any) -> None:
        self._write({"event": name, **fields})

    def train(self, row: dict[str, Any]) -> None:
        """One training step; raises ValueError if the step ran before on other samples."""
        if not self.main:
            return
        step, batch_hash = row["step"], row["batch_hash"]
        if self._seen.setdefault(step, batch_hash) != batch_hash:
            raise ValueError(
                f"step {step} was run on other samples before ({self._metrics_path}): the data or "
                "their order has changed; use a new run.dir"
            )
        self._write({**row, "split": "train"})
        numbers = {
            f"train/{key}": value
            for key, value in row.items()
            if isinstance(value, int | float) and key != "step"
        }
        for tracker in self.trackers:
            tracker.scalars(step, numbers)
        line = (
            f"loss {row['loss']:.4f}  {row['samples_per_s']:.0f} samples/s  "
            f"{_short_count(row['tokens_per_s'])} tokens/s  data wait "
            f"{100 * row['data_wait']:.0f} %  {row['memory_gb']:.1f} GB"
        )
        self._progress.update(self._bar, completed=step, line=line)
        if self._progress.disable and (step <= 3 or step % 20 == 0):
            print(f"step {step}  {line}  eta {_clock(row['eta_s'])}", file=sys.stderr, flush=True)

    def evaluation(self, row: dict[str, Any]) -> None:
        self._write(row)
        if self.main:
            name = f"{row['split']}/{row['task']}/{row['metric']}"
            for tracker in self.trackers:
                tracker.scalars(row["step"], {name: row["value"]})

    def say(self, text: str) -> None:
        """A line for people, also kept in log.txt."""
        if self.main:
            self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)
            with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
                file.write(text + "\n")

    def close(self) -> None:
        if self.main:
            self._progress.stop()
            with suppress(OSError):  # a full disk was told where a row was written
                let_go(self._metrics)
            for tracker in self.trackers:
                tracker.close()

    def _write(self, row: dict[str, Any]) -> None:
        if self.main:
            try:
                self._metrics.write(json.dumps(row, ensure_ascii=False) + "\n")
                self._metrics.flush()
            except OSError as error:
                raise OSError(f"{self._metrics_path} can't be written: {error}") from None


MAIN_METRICS = ("R@1", "R@5", "accuracy", "macro_f1")


def summary(scores: Sequence[Any]) -> list[str]:
    """A line for each direction of an evaluation task with its main metrics, without any of those
    its first score.

    `scores` are the evaluators'; "image_to_text_R@1" is the metric R@1 of the direction
    image_to_text.
    """
    lines: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for score in scores:
        for metric in MAIN_METRICS:
            if score.name == metric or score.name.endswith(f"_{metric}"):
                direction = score.name.removesuffix(metric).rstrip("_")
                lines.setdefault(direction, []).append(_short(metric, score))
                counts[direction] = score.n
    if not lines and scores:
        lines, counts = {"": [_short(scores[0].name, scores[0])]}, {"": scores[0].n}
    return ["  ".join([*filter(None, [d]), *parts, f"n {counts[d]}"]) for d, parts in lines.items()]


def _short(metric: str, score: Any) -> str:
    chance = "" if score.chance is None else f" (chance {score.chance:.4f})"
    return f"{metric} {score.value:.4f}{chance}"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The objects of a metrics.jsonl; a last line that a killed run left half-written is left
    out.
    """
    rows = []
    # A kill may also cut a character in two.
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            logger.warning("%s: a line is cut short and left out", path)
    return rows


def environment() -> dict[str, Any]:
    """Versions and machine, for environment.json."""
    import platform
    from importlib.metadata import version

    names = ("mmfm", "torch", "deepspeed", "webdataset", "timm", "transformers", "numpy")
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in names},
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }


def _batch_hashes(path: Path) -> dict[int, str]:
    return {row["step"]: row["batch_hash"] for row in read_metrics(path) if "batch_hash" in row}


def _end_line(path: Path) -> None:
    """End a line that a killed run left half-written, so that the next one stands alone."""
    if path.exists() and (data := path.read_bytes()) and not data.endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")


def _short_count(number: float) -> str:
    """1.2M, 45k, 300."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
