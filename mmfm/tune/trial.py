"""One trial: a run in a process of its own, whose scores are followed in its metrics.jsonl."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

from mmfm.files import write_text
from mmfm.tune.space import Search, Settings

LOOKS_EVERY_S = 0.5
ENDS_IN_S = 60.0
"""A run that is asked to stop may need so long for its step and its checkpoint."""


class Judge(Protocol):
    """What is done with a score as soon as it is there; an optuna trial."""

    def report(self, value: float, step: int) -> None: ...
    def should_prune(self) -> bool: ...


@dataclass(frozen=True)
class Outcome:
    """`value`: the score of the checkpoint that the run hands out; `error`: what a run that failed
    said last.
    """

    state: Literal["complete", "pruned", "failed", "stopped"]
    value: float | None = None
    error: str = ""


class Tail:
    """The rows of a file of JSON lines, as it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0

    def rows(self) -> Iterator[dict[str, Any]]:
        """Those that were written since the last call, without a line that isn't whole."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # a run that was killed has left half a line
                continue


def run_trial(
    search: Search,
    settings: Settings,
    folder: Path,
    judge: Judge,
    *,
    stop: threading.Event,
    environment: Mapping[str, str],
) -> Outcome:
    """Run the recipe with these settings in `folder` to its end, to where the judge prunes it, or
    until `stop` is set.

    Beside the folder lie its recipe (.yaml) and what it says (.txt). A folder that holds a
    checkpoint goes on from there.
    """
    recipe, said = folder.with_suffix(".yaml"), folder.with_suffix(".txt")
    raw = search.of_trial(settings, folder)
    write_text(recipe, yaml.safe_dump(raw, sort_keys=False, allow_unicode=True).rstrip())
    follow = _Follow(search, settings, folder, judge)
    follow.look()
    follow.stopped = False  # that was the process before
    with said.open("ab") as out:
        process = subprocess.Popen(
            command(search.command, recipe),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,  # Ctrl-C is for the search, which asks its trials to stop
        )
    try:
        while process.poll() is None and not stop.is_set() and not follow.look():
            time.sleep(LOOKS_EVERY_S)
    finally:
        _end(process)
    pruned = follow.look()
    others_stopped_it = follow.stopped and process.returncode == 0 and not pruned
    if stop.is_set() or others_stopped_it:
        return Outcome("stopped")
    if pruned:
        return Outcome("pruned", follow.value())
    if process.returncode:
        return Outcome("failed", error=_last_line(said) or f"exit code {process.returncode}")
    value = follow.value()
    if value is None:
        wanted = f"{search.by.task} {search.by.metric}"
        return Outcome("failed", error=f"no evaluation had {wanted}, but {follow.told()}")
    return Outcome("complete", value)


def command(name: str, recipe: Path) -> list[str]:
    """The command line of a trial: ``mmfm NAME RECIPE`` that ends with this process."""
    return [sys.executable, "-m", "mmfm.tune.child", str(os.getpid()), name, str(recipe)]


class _Follow:
    """The evaluations of a run, reported to the judge as they come."""

    def __init__(self, search: Search, settings: Settings, folder: Path, judge: Judge) -> None:
        self.by, self.chosen_by = search.by, search.compared_by(settings)
        self.judge = judge
        self.tail = Tail(folder / "metrics.jsonl")
        self.rows: list[dict[str, Any]] = []
        self.stopped = False  # somebody else has asked the run to stop
        self._reported: set[int] = set()
        self._pruned = False

    def look(self) -> bool:
        """Report what is new; whether the judge has seen enough."""
        for row in self.tail.rows():
            self.stopped = row.get("event") == "stop"
            if row.get("split") == "eval":
                self.rows.append(row)
        for step, value in self.by.values_by_step(self.rows).items():
            if step not in self._reported and not self._pruned:
                self._reported.add(step)
                self.judge.report(value, step)
                self._pruned = self.judge.should_prune()
        return self._pruned

    def value(self) -> float | None:
        """The score at the step that `train.keep_best` chooses, else at the last one."""
        values = self.by.values_by_step(self.rows)
        if not values:
            return None
        step = max(values)
        if self.chosen_by is not None:
            chosen = self.chosen_by.values_by_step(self.rows)
            step = self.chosen_by.best_step({s: chosen[s] for s in chosen if s in values}) or step
        return values[step]

    def told(self) -> str:
        """The scores that there were."""
        return ", ".join(sorted({f"{r['task']} {r['metric']}" for r in self.rows})) or "nothing"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the run to stop, and end it if it doesn't."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(ENDS_IN_S)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
