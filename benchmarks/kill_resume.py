"""Kills training runs at random moments and continues them: is every step what it would have been?

    mmfm data make synthetic data/synthetic
    python benchmarks/kill_resume.py data/synthetic [--kills 20] [--steps 60] [--workers 0 1 2]

For each number of data workers, configs/pretrain/tiny.yaml runs on two ranks (gloo, CPU) once to
its end, and once more with SIGKILL to all its processes at --kills random steps, continued each
time by the same command; every fourth kill waits until a checkpoint is being written. Each step,
also where it was run again, must have the loss, the gradient norm and the hash of the sample ids of
the uninterrupted run, bit for bit, and so must the last checkpoint's tensors. Then, at ZeRO 1 and
2, a run goes from 2 ranks to 1 and back by kills: the same sample ids in each step, losses equal
within --tolerance. Prints tables in Markdown; exits with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parent.parent
TIMES = {"samples_per_s", "data_wait", "eta_s", "mfu"}
"""What may differ in a step's row: how long it took."""

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
        environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PATH": path}
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
                time.sleep(0.002)
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


def exact(row: Row) -> Row:
    return {key: value for key, value in row.items() if key not in TIMES}


def differences(got: list[Row], want: list[Row]) -> list[str]:
    """What of `got` is not as in `want`, and the steps that are missing."""
    expected = {row["step"]: exact(row) for row in want}
    found = []
    for row in got:
        other = expected[row["step"]]
        fields = [k for k in other | exact(row) if other.get(k) != row.get(k)]
        if fields:
            found.append(f"step {row['step']}: {', '.join(fields)}")
    missing = sorted(expected.keys() - {row["step"] for row in got})
    return found + [f"step {step} is missing" for step in missing]


def killed(workers: int, arguments: argparse.Namespace, folder: Path) -> tuple[str, list[str]]:
    """A row of the table, and what differs."""
    overrides = [*recipe(arguments), f"data.workers={workers}", "train.zero_stage=2"]
    whole = Run(folder / f"whole-{workers}", overrides, arguments.limit)
    whole.finish(2)
    want = whole.rows()
    seconds = sorted(32 / row["samples_per_s"] for row in want)[len(want) // 2]

    run = Run(folder / f"killed-{workers}", overrides, arguments.limit)
    draw = random.Random(f"{arguments.seed} {workers}")
    # The last steps are spared, so that no run is done before its kill.
    steps = sorted(draw.choices(range(1, arguments.steps - 4), k=arguments.kills))
    writing = 0
    for number, step in enumerate(steps):
        wait = draw.uniform(0, 2 * seconds)

        def ready(logged: list[Row], step: int = step, aim: bool = number % 4 == 3) -> bool:
            there = bool(logged) and logged[-1]["step"] >= step
            return there and (not aim or run.writes_checkpoint())

        if number % 4 == 3:
            run.kill_when(2, ready)
        else:
            run.kill_when(2, after(wait, ready))
        writing += run.writes_checkpoint()
        print(f"workers {workers}: killed at step {run.rows()[-1]['step']}", file=sys.stderr)
    run.finish(2)

    got = run.rows()
    wrong = differences(got, want)
    if run.tensors() != whole.tensors():
        wrong.append("the last checkpoint's tensors")
    cells = (workers, len(steps), writing, len(want), len(got), len(wrong))
    return "| " + " | ".join(map(str, cells)) + " |", [f"workers {workers}: {w}" for w in wrong]


def after(wait: float, ready: Callable[[list[Row]], bool]) -> Callable[[list[Row]], bool]:
    """`ready`, and then `wait` seconds."""
    since: list[float] = []

    def later(logged: list[Row]) -> bool:
        if not since and ready(logged):
            since.append(time.monotonic())
        return bool(since) and time.monotonic() - since[0] >= wait

    return later


def elastic(stage: int, arguments: argparse.Namespace, folder: Path) -> tuple[str, list[str]]:
    """2 ▶ 1 ▶ 2 ranks at a ZeRO stage: a row of the table, and what differs."""
    overrides = [*recipe(arguments), "data.workers=0", f"train.zero_stage={stage}"]
    whole = Run(folder / f"whole-stage-{stage}", overrides, arguments.limit)
    whole.finish(2)
    want = {row["step"]: row for row in whole.rows()}

    run = Run(folder / f"elastic-stage-{stage}", overrides, arguments.limit)
    for ranks, part in ((2, 1), (1, 2)):
        target = part * arguments.steps // 3
        run.kill_when(ranks, lambda logged, n=target: bool(logged) and logged[-1]["step"] >= n)
    run.finish(2)

    got, wrong, worst = run.rows(), [], 0.0
    for row in got:
        step, other = row["step"], want[row["step"]]
        if row["batch_hash"] != other["batch_hash"]:
            wrong.append(f"ZeRO {stage}, step {step}: other sample ids")
        for key in (key for key in other if key.endswith("loss")):
            error = abs(row[key] - other[key]) / max(abs(other[key]), 1e-30)
            worst = max(worst, error)
            if not error <= arguments.tolerance:
                wrong.append(f"ZeRO {stage}, step {step}: {key} by {error:.1e}")
    missing = want.keys() - {row["step"] for row in got}
    wrong += [f"ZeRO {stage}: step {step} is missing" for step in sorted(missing)]
    ids = sum("sample ids" in w for w in wrong)
    return f"| {stage} | {len(want)} | {len(got)} | {ids} | {worst:.1e} |", wrong


def recipe(arguments: argparse.Namespace) -> list[str]:
    data = arguments.data.resolve()
    return [
        f"data.sources.synthetic.path={data}",
        f"eval.sources.held_out.path={data}",
        f"model.encoders.text.tokenizer={data / 'tokenizer'}",
        f"train.max_steps={arguments.steps}",
        f"train.save_every={arguments.save_every}",
        f"train.eval_every={10 * arguments.steps}",
        "eval.tasks={}",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path, help="what `mmfm data make synthetic` has made")
    parser.add_argument("--kills", type=int, default=20, help="for each number of workers")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--save-every", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--stages", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--tolerance", type=float, default=1e-5, help="relative, of each loss")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds of one start")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not (arguments.data / "tokenizer").is_dir():
        parser.error(f"{arguments.data} is not there: mmfm data make synthetic {arguments.data}")
    if arguments.steps < 10:
        parser.error(f"--steps {arguments.steps}: at least 10")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no run is left behind
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="kill-resume-") as name:
        folder = Path(name)
        if arguments.workers:
            print("| workers | kills | while a checkpoint was written | steps | runs of a step |"
                  " differences |")  # fmt: skip
            print("| --- | --- | --- | --- | --- | --- |", flush=True)
        for workers in arguments.workers:
            line, found = killed(workers, arguments, folder)
            print(line, flush=True)
            wrong += found
        if arguments.stages:
            print("\n| ZeRO, 2 ▶ 1 ▶ 2 ranks | steps | runs of a step | other sample ids |"
                  " largest relative difference of a loss |")  # fmt: skip
            print("| --- | --- | --- | --- | --- |", flush=True)
        for stage in arguments.stages:
            line, found = elastic(stage, arguments, folder)
            print(line, flush=True)
            wrong += found
    print("\n".join(["", *wrong]) if wrong else "\nno difference")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
