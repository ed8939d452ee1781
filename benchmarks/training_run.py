"""A training run that can be started on any number of ranks, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parent.parent
Row = dict[str, Any]


@dataclass
class Run:
    """A training run in `folder`, on any number of ranks from start to start."""

    folder: Path
    overrides: list[str]
    limit: float
    """Seconds that one start of it may take."""

    def start(self, ranks: int) -> subprocess.Popen[bytes]:
        """Launch it in a process group of its own, so that all of it can be killed at once."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        launcher = Path(sys.executable).parent / "deepspeed"
        words = [str(launcher), "--num_gpus", str(ranks), "--master_port", str(port)]
        words += ["--module", "mmfm", "pretrain", "configs/pretrain/tiny.yaml"]
        words += [f"run.dir={self.folder}", *self.overrides]
        path = f"{launcher.parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": path}
        environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.said.open("ab") as said:
            return subprocess.Popen(
                words,
                cwd=ROOT,
                env=environment,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def finish(self, ranks: int) -> None:
        """Let it run to its end."""
        process = self.start(ranks)
        try:
            if process.wait(self.limit) != 0:
                self.fail("ended with an error")
        except subprocess.TimeoutExpired:
            self.fail(f"was not done after {self.limit:g} s")
        finally:
            kill(process)

    def kill_when(self, ranks: int, ready: Callable[[list[Row]], bool]) -> None:
        """Start it, and kill it as soon as `ready(what this start has logged)`."""
        before = len(self.rows())
        process = self.start(ranks)
        deadline = time.monotonic() + self.limit
        try:
            while not ready(self.rows()[before:]):
                if process.poll() is not None or time.monotonic() > deadline:
                    self.fail("ended or hung before it could be killed")
                time.sleep(0.01)
        finally:
            kill(process)

    def fail(self, what: str) -> NoReturn:
        said = self.said.read_text(errors="replace")[-3000:]
        raise SystemExit(f"{self.folder} {what}:\n{said}")

    @property
    def said(self) -> Path:
        return self.folder.with_suffix(".out")

    def rows(self) -> list[Row]:
        """Every training step that was logged, in order, those that were run again as well."""
        return [row for row in self._lines() if row.get("split") == "train"]

    def writes_checkpoint(self) -> bool:
        return any((self.folder / "checkpoints").glob(".step_*"))

    def tensors(self) -> dict[str, str]:
        """File of tensors ▶ its sha256, of the last checkpoint."""
        checkpoints = self.folder / "checkpoints"
        last = max(checkpoints.glob("step_*"))
        files = json.loads((last / "manifest.json").read_text())["files"]
        return {name: f["sha256"] for name, f in files.items() if name.endswith(".safetensors")}

    def _lines(self) -> Iterator[Row]:
        path = self.folder / "metrics.jsonl"
        text = path.read_text(errors="replace") if path.exists() else ""
        for line in text.splitlines():
            with suppress(ValueError):  # a kill cut it short
                yield json.loads(line)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the whole group; returns when none of it is left."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 30
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.01)
