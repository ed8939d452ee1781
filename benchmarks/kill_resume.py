"""Kills training runs at random moments and continues them: is every step what it would have been?

    mmfm data make synthetic data/synthetic
    python -m benchmarks.kill_resume data/synthetic [--kills 20] [--workers 0 1 2] [--stages 1 132]

For each number of data workers, configs/pretrain/tiny.yaml runs on two ranks (gloo, CPU) once to
its end, and once more with SIGKILL to all its processes at --kills random steps, continued each
time by the same command; every fourth kill waits until a checkpoint is being written. Each step,
also where it was run again, must have the loss, the gradient norm and the hash of the sample ids of
the uninterrupted run, bit for bit, and so must the last checkpoint's tensors. Then a run goes from
2 ranks to 1 and back by kills, at one ZeRO stage (--stages 2) or at another in each of its three
starts (--stages 132), beside an uninterrupted run at the first stage: the same sample ids in each
step, losses equal within --tolerance. Prints tables in Markdown; exits with 1 where anything
differs.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.training_run import Row, Run

TIMES = {"samples_per_s", "tokens_per_s", "data_wait", "eta_s", "mfu", "memory_gb"}
"""What may differ in a step's row: how long it took, and what a start has held so far."""


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


def elastic(stages: str, arguments: argparse.Namespace, folder: Path) -> tuple[str, list[str]]:
    """2 ▶ 1 ▶ 2 ranks at the ZeRO stages of the three starts: a row of the table, and what
    differs.
    """
    first, second, third = stages if len(stages) == 3 else 3 * stages
    shared = [*recipe(arguments), "data.workers=0", f"optim.lr={arguments.elastic_lr}"]
    whole = Run(folder / f"whole-{stages}", [*shared, f"train.zero_stage={first}"], arguments.limit)
    whole.finish(2)
    want = {row["step"]: row for row in whole.rows()}

    run = Run(folder / f"elastic-{stages}", [], arguments.limit)
    for ranks, stage, part in ((2, first, 1), (1, second, 2)):

        def ready(logged: list[Row], step: int = part * arguments.steps // 3) -> bool:
            return bool(logged) and logged[-1]["step"] >= step

        run.overrides = [*shared, f"train.zero_stage={stage}"]
        run.kill_when(ranks, ready)
    run.overrides = [*shared, f"train.zero_stage={third}"]
    run.finish(2)

    got, wrong, worst = run.rows(), [], 0.0
    for row in got:
        step, other = row["step"], want[row["step"]]
        if row["batch_hash"] != other["batch_hash"]:
            wrong.append(f"ZeRO {stages}, step {step}: other sample ids")
        for key in (key for key in other if key.endswith("loss")):
            error = abs(row[key] - other[key]) / max(abs(other[key]), 1e-30)
            worst = max(worst, error)
            if not error <= arguments.tolerance:
                wrong.append(f"ZeRO {stages}, step {step}: {key} by {error:.1e}")
    missing = want.keys() - {row["step"] for row in got}
    wrong += [f"ZeRO {stages}: step {step} is missing" for step in sorted(missing)]
    ids = sum("sample ids" in w for w in wrong)
    way = " ▶ ".join((first, second, third))
    return f"| {way} | {len(want)} | {len(got)} | {ids} | {worst:.1e} |", wrong


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
    parser.add_argument("--stages", nargs="*", default=["1", "2", "3", "132"])
    parser.add_argument("--tolerance", type=float, default=1e-5, help="relative, of each loss")
    parser.add_argument(
        "--elastic-lr",
        type=float,
        default=5e-4,
        help="of the runs whose ranks change: AdamW amplifies what fp32 rounds otherwise there",
    )
    parser.add_argument("--limit", type=float, default=600.0, help="seconds of one start")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not (arguments.data / "tokenizer").is_dir():
        parser.error(f"{arguments.data} is not there: mmfm data make synthetic {arguments.data}")
    if arguments.steps < 10:
        parser.error(f"--steps {arguments.steps}: at least 10")
    for stages in arguments.stages:
        if len(stages) not in (1, 3) or not set(stages) <= set("0123"):
            parser.error(f"--stages {stages}: one stage of 0 to 3, or one for each of three starts")
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
            print("\n| ZeRO on 2 ▶ 1 ▶ 2 ranks | steps | runs of a step | other sample ids |"
                  " largest relative difference of a loss |")  # fmt: skip
            print("| --- | --- | --- | --- | --- |", flush=True)
        for stages in arguments.stages:
            line, found = elastic(stages, arguments, folder)
            print(line, flush=True)
            wrong += found
    print("\n".join(["", *wrong]) if wrong else "\nno difference")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
