"""Damaged and malicious shards: no crash, no hang, nothing executed, every loss told.

    python -m benchmarks.mutated_shards [--shards 200] [--seed 0] [--timeout 60] [--show]

Each shard is a dozen good samples of which something has gone wrong in one of the ways of
tests/data/mutations.py. It is read for two epochs as training reads it and checked by ``mmfm data
verify`` in a process of its own, once as a plain tar and once under the manifest and the index of
the good tar. Prints a table in Markdown; exits with 1 if a process crashed, took longer than
--timeout, lost a sample that nobody is told of, executed what was in a shard or wrote outside.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from tests.data.judging import OUTCOMES, Verdict, judge
from tests.data.make_shards import make_specs, write_set
from tests.data.mutations import KINDS, good_samples, mutate

SHARD = "000.tar"


def prepare(folder: Path, kind: str, seed: int, listed: bool, trap: Path) -> None:
    """The set with the mutated shard in `folder`; `listed`: under the good tar's manifest."""
    if listed:
        write_set(folder, [good_samples()])
        (folder / SHARD).unlink()
    else:
        folder.mkdir()
    mutate(kind, seed, folder / SHARD, trap)


def child(folder: Path, specs: dict[str, Any], listed: bool, out: Connection) -> None:
    os.chdir(folder)
    try:
        verdict = judge(folder, SHARD, specs, listed)
    except BaseException:
        verdict = Verdict("crashed", "", [traceback.format_exc()[-1500:]])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    out.send((verdict, memory))


def judged(
    folder: Path, specs: dict[str, Any], listed: bool, timeout: float
) -> tuple[Verdict, float]:
    """The verdict on `folder` from another process, and the MiB that it took at most."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=child, args=(folder, specs, listed, theirs))
    process.start()
    theirs.close()
    try:
        if ours.poll(timeout):
            return ours.recv()
        return Verdict("hung", "", [f"took longer than {timeout:g} s"]), 0.0
    except EOFError:
        process.join()
        return Verdict("crashed", "", [f"the process ended with {process.exitcode}"]), 0.0
    finally:
        process.kill()
        process.join()


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shards", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for each shard")
    parser.add_argument("--only", choices=KINDS, help="one kind of mutation")
    parser.add_argument("--show", action="store_true", help="print what is said of each shard")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # threads don't survive a fork
    kinds = [arguments.only] if arguments.only else KINDS
    outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    problems: list[str] = []
    most, longest = 0.0, 0.0
    with tempfile.TemporaryDirectory(prefix="mutated-") as name:
        root = Path(name) / "a" / "b"  # so that ../../x is still ours
        root.mkdir(parents=True)
        specs = make_specs(root / "tokenizer")
        for number in range(arguments.shards):
            kind, seed = kinds[number % len(kinds)], arguments.seed + number // len(kinds)
            for listed in (False, True):
                folder = root / f"{number:04d}-{'listed' if listed else 'plain'}"
                prepare(folder, kind, seed, listed, root / "trap")
                before = files(Path(name))
                start = time.monotonic()
                verdict, memory = judged(folder, specs, listed, arguments.timeout)
                longest, most = max(longest, time.monotonic() - start), max(most, memory)
                new = {Path(file).name for file in files(Path(name)) - before}
                if outside := new - {f"{SHARD}.idx", "quarantine.jsonl"}:
                    verdict.problems.append(f"made {sorted(outside)}")
                (root / "trap").unlink(missing_ok=True)
                outcomes[kind][verdict.outcome] += 1
                title = f"{kind}, seed {seed}, {'with' if listed else 'no'} manifest"
                problems += [f"{title}: {problem}" for problem in verdict.problems]
                if arguments.show:
                    print(f"{title}: {verdict.outcome}: {verdict.said}", flush=True)
    columns = [*OUTCOMES, "crashed", "hung"]
    print(f"| mutation | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}")
    for kind, counts in outcomes.items():
        print(f"| {kind} | {' | '.join(str(counts[c] or '') for c in columns)} |")
    total = sum(outcomes.values(), Counter())
    print(f"| all | {' | '.join(str(total[column]) for column in columns)} |")
    print(f"\nat most {longest:.1f} s and {most:.0f} MiB for one shard")
    print(f"{len(problems)} problems", *problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
