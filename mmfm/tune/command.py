"""The command `mmfm tune`: searches for the settings of a recipe.

    mmfm tune configs/finetune/tiny.yaml --trials 20 --workers 2 \\
        'search={optim.lr: {low: 1.0e-4, high: 1.0e-2, log: true}}' \\
        'search_by={task: shape, metric: accuracy}'

The same command again goes on, also after a kill. Several may run at once on one folder.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import torch
import yaml

from mmfm.tune import page, result
from mmfm.tune.space import Search, read_search
from mmfm.tune.study import PRUNERS, SAMPLERS, Claim, Trials
from mmfm.tune.trial import Outcome, run_trial


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = _Parser(prog="mmfm tune", description="Search for the settings of a recipe.")
    parser.add_argument("config", help="YAML file of the recipe, with a section search")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that replace those of the file"
    )
    parser.add_argument("--trials", type=_count, default=20, help="how many there are to be in all")
    parser.add_argument("--workers", type=_count, default=1, help="trials at a time")
    parser.add_argument("--sampler", default="tpe", help=", ".join(SAMPLERS))
    parser.add_argument("--pruner", default="median", help=", ".join(PRUNERS))
    parser.add_argument("--seed", type=int, default=0, help="of the sampler")
    parser.add_argument(
        "--keep-checkpoints", action="store_true", help="of all trials, not only of the best one"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, show the plan")
    try:
        args = parser.parse_intermixed_args(argv)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("a search starts its trials itself: run it without a launcher")
        search = read_search(args.config, args.overrides)
        trials = Trials(
            search, args.trials, args.sampler, args.pruner, args.seed, args.keep_checkpoints
        )
        plan = _plan(search)
        lines = [plan, *_searched(search)] if args.dry_run else _searched(search)
        print("\n".join(lines), flush=True)
        return 0 if args.dry_run else _search(trials, args.workers)
    except (ValueError, OSError) as error:
        print(f"mmfm tune: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 2


class _Parser(argparse.ArgumentParser):
    """Wrong arguments are an error like any other: one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} ({self.format_usage().strip()})")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of at least 1")
    return int(text)


def _searched(search: Search) -> list[str]:
    by = search.by
    return [
        f"search    {search.folder}, {by.task} {by.metric} ({by.mode}), by mmfm {search.command}",
        *(f"  {name:<36}  {space}" for name, space in search.space.items()),
    ]


def _plan(search: Search) -> str:
    """What the recipe does, without anything searched; ValueError where it can't be run."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump(search.recipe, file, allow_unicode=True)
        file.flush()
        # In a process of its own, so that the search itself holds no model.
        words = [sys.executable, "-m", "mmfm", search.command, file.name, "--dry-run"]
        done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ValueError(lines[-1].removeprefix(f"mmfm {search.command}: error: "))
    return done.stdout.strip()


def _search(trials: Trials, workers: int) -> int:
    """Run trials until there are enough; 130 where it was asked to stop."""
    trials.open()
    stop = threading.Event()
    errors: list[Exception] = []

    def asked(number: int, frame: FrameType | None) -> None:
        if not stop.is_set():
            print("asked to stop: the trials save where they are", file=sys.stderr, flush=True)
        stop.set()

    def work(worker: int) -> None:
        try:
            while not stop.is_set() and (claim := trials.next()) is not None:
                _run(trials, claim, stop, _environment(worker, workers))
        except Exception as error:
            errors.append(error)
            stop.set()

    before = {s: signal.signal(s, asked) for s in (signal.SIGINT, signal.SIGTERM)}
    threads = [threading.Thread(target=work, args=(n,)) for n in range(workers)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.5)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if errors:
        raise errors[0]
    _show(trials)
    if stop.is_set():
        print("stopped; the same command goes on", file=sys.stderr, flush=True)
        return 130
    return 0


def _run(
    trials: Trials, claim: Claim, stop: threading.Event, environment: dict[str, str]
) -> Outcome:
    number, settings = claim.trial.number, result.short(claim.settings)
    print(f"trial {number}  begins  {settings}", flush=True)
    outcome = run_trial(
        trials.search,
        claim.settings,
        claim.folder,
        claim.trial,
        stop=stop,
        environment=environment,
    )
    trials.finish(claim, outcome)
    best = trials.best()
    so_far = "" if best is None else f"  (best {best.value:.4f}, trial {best.number})"
    told = outcome.error or ("" if outcome.value is None else f"{outcome.value:.4f}")
    print(f"trial {number}  {outcome.state}  {told}{so_far}", flush=True)
    return outcome


def _show(trials: Trials) -> None:
    print("\n".join(result.report(trials)))
    best = trials.best()
    if best is not None:
        path = result.write_best(trials, best)
        print(f"its recipe: {path}; all of it: {page.write(trials)}")


def _environment(worker: int, workers: int) -> dict[str, str]:
    """What a worker's trials get of the machine: one of its GPUs, a share of its cores."""
    found: dict[str, str] = {}
    if workers > 1 and "OMP_NUM_THREADS" not in os.environ:
        found["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // workers))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = (
        range(torch.cuda.device_count()) if visible is None else filter(None, visible.split(","))
    )
    devices = [str(device) for device in named]
    if devices:
        found["CUDA_VISIBLE_DEVICES"] = devices[worker % len(devices)]
    return found
