"""The command: see the package."""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import benchmarks.data_loading as package
from benchmarks.data_loading import sets
from benchmarks.data_loading.environments import ROOT, environment, python_of
from benchmarks.data_loading.job import Job

PEERS = ("mmfm_pipeline", "webdataset_loader", "mosaic", "energon")
PROCESSES = {"1 process": (0, 1), "2 workers": (2, 1), "2 ranks": (0, 2)}
"""name ▶ (workers of a rank, ranks)."""
VERSIONS: dict[str, str] = {}
"""Of what was measured."""
STOPS = (10, 50, 90)
"""Percent of an epoch."""


@dataclass(frozen=True)
class Entry:
    """A column: a peer with a way of decoding, and the interpreter that has it."""

    peer: str
    decoding: str
    python: str

    @property
    def name(self) -> str:
        kind = "" if self.peer == "mmfm_pipeline" else f", {self.decoding} decoding"
        return f"{self.peer.split('_')[0]}{kind}"


def run(job: Job, python: str) -> dict[str, Any]:
    """What the process (or processes, one for each rank) of a job say, rates summed."""
    with tempfile.TemporaryDirectory() as meeting, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
        probe.close()
        started = []
        for rank in range(job.world):
            mine = replace(job, rank=rank, meeting=meeting)
            variables = environment()
            if job.world > 1:
                variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                variables |= {"RANK": str(rank), "WORLD_SIZE": str(job.world)}
                variables |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(job.world)}
            words = [python, "-m", "benchmarks.data_loading.worker", mine.dumps()]
            started.append(
                subprocess.Popen(words, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True)
            )
        said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"{job} failed: see above")
    found = [json.loads(text.splitlines()[-1]) for text in said]
    rate = sum(f["samples"] / max(f["seconds"], 1e-9) for f in found)
    return {"seconds": found[0]["seconds"], "rate": rate, "versions": found[0]["versions"]}


def forget(*folders: str) -> None:
    """Drop the files of `folders` from the page cache."""
    os.sync()
    for folder in folders:
        for path in Path(folder).rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def prepared(wanted: sets.Set, samples: int, entries: list[Entry], cache: Path) -> dict[str, Job]:
    """The set and what each peer makes of it; peer ▶ a job to start from."""
    data = cache / "sets" / f"{wanted.name}-{samples}"
    if not data.is_dir():
        print(f"making {data}", file=sys.stderr, flush=True)
        sets.make(wanted, samples, data, sets.drawings(cache))
    jobs = {}
    for peer, python in {entry.peer: entry.python for entry in entries}.items():
        folder = cache / "prepared" / f"{peer}-{wanted.name}-{samples}"
        job = Job(
            action="prepare",
            peer=peer,
            data=str(data),
            prepared=str(folder),
            samples=samples,
            size=wanted.size,
        )
        done = folder.with_name(f"{folder.name}.seconds")
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            done.write_text(f"{run(job, python)['seconds']:.1f}")
        print(f"{peer}: {wanted.name} prepared in {done.read_text()} s", file=sys.stderr)
        jobs[peer] = job
    return jobs


def in_turns(
    entries: list[Entry], jobs: dict[str, Job], repeats: int, cold: bool
) -> dict[str, list[dict[str, Any]]]:
    """Column ▶ what each of `repeats` measurements gave, the columns one after the other."""
    found = defaultdict(list)
    for _ in range(repeats):
        for entry in entries:
            job = replace(jobs[entry.peer], decoding=entry.decoding)
            if cold:
                forget(job.data, job.prepared)
            result = run(job, entry.python)
            print(f"  {entry.name}: {result}", file=sys.stderr, flush=True)
            found[entry.name].append(result)
            VERSIONS.update(result["versions"])
    return found


def rates(wanted: sets.Set, entries: list[Entry], jobs: dict[str, Job], options: Any) -> None:
    columns = [entry.name for entry in entries]
    print(f"\n## {wanted.name}: samples/s, and mmfm's rate by the peer's (least to most)\n")
    print(f"| processes | page cache | {' | '.join(columns)} |\n|{' --- |' * (2 + len(columns))}")
    for name in options.processes:
        workers, world = PROCESSES[name]
        for cache in options.page_cache:
            mine = {
                peer: replace(job, action="rate", workers=workers, world=world)
                for peer, job in jobs.items()
            }
            found = in_turns(entries, mine, options.repeats, cache == "cold")
            ours = [result["rate"] for result in found[columns[0]]]
            cells = [f"{statistics.median(ours):.0f}"]
            for column in columns[1:]:
                theirs = [result["rate"] for result in found[column]]
                ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
                low, high = min(ratios), max(ratios)
                middle = statistics.median(ratios)
                cells.append(
                    f"{statistics.median(theirs):.0f}, {middle:.2f}× ({low:.2f} to {high:.2f})"
                )
            print(f"| {name} | {cache} | {' | '.join(cells)} |", flush=True)


def resumes(wanted: sets.Set, entries: list[Entry], jobs: dict[str, Job], options: Any) -> None:
    usual = list({entry.peer: entry for entry in reversed(entries)}.values())[::-1]
    columns = [entry.name for entry in usual]
    print(f"\n## {wanted.name}: seconds to resume (least to most)\n")
    print(f"| workers | after | {' | '.join(columns)} |\n|{' --- |' * (2 + len(columns))}")
    for workers in options.resume_workers:
        for percent in STOPS:
            mine = {}
            for entry in usual:
                job = jobs[entry.peer]
                done = job.samples * percent // 100 // job.batch * job.batch
                job = replace(job, action="save", workers=workers, done=done)
                run(job, entry.python)
                mine[entry.peer] = replace(job, action="resume")
            found = in_turns(usual, mine, options.repeats, False)
            cells = []
            for column in columns:
                times = [result["seconds"] for result in found[column]]
                low, high = min(times), max(times)
                cells.append(f"{statistics.median(times):.2f} ({low:.2f} to {high:.2f})")
            print(f"| {workers} | {percent} % | {' | '.join(cells)} |", flush=True)


def constants(peer: str) -> dict[str, Any]:
    """PACKAGES, REQUIREMENT and DECODINGS of a peer that can't be imported here."""
    tree = ast.parse((ROOT / f"benchmarks/data_loading/peers/{peer}.py").read_text())
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in ("PACKAGES", "REQUIREMENT", "DECODINGS")
    }


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data_loading",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mmfm-benchmarks"
    parser.add_argument("--sets", nargs="+", choices=sets.SETS, default=list(sets.SETS))
    parser.add_argument("--peers", nargs="+", choices=PEERS[1:], default=PEERS[1:])
    parser.add_argument("--decoding", nargs="+", choices=("usual", "mmfm"), default=("usual",))
    parser.add_argument("--processes", nargs="+", choices=PROCESSES, default=list(PROCESSES))
    parser.add_argument(
        "--page-cache", nargs="+", choices=("cold", "warm"), default=["cold", "warm"]
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--samples", type=int, help="of each set (default: enough for seconds)")
    parser.add_argument("--only", choices=("rates", "resumes"))
    parser.add_argument("--resume-workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--cache", type=Path, default=cache, help="(default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    entries = []
    for peer in ("mmfm_pipeline", *options.peers):
        about = constants(peer)
        python = python_of(peer, about["REQUIREMENT"], options.cache)
        ways = about["DECODINGS"] if peer == "mmfm_pipeline" else options.decoding
        entries += [Entry(peer, way, python) for way in ways]
    print(f"`python -m benchmarks.data_loading {' '.join(sys.argv[1:])}`\n")
    print(f"{platform.platform()}, {os.cpu_count()} processors, Python {platform.python_version()}")
    for name in options.sets:
        wanted = sets.SETS[name]
        samples = options.samples or wanted.samples
        jobs = prepared(wanted, samples, entries, options.cache)
        if options.only != "resumes":
            rates(wanted, entries, jobs, options)
        if options.only != "rates":
            resumes(wanted, entries, jobs, options)
    print("\n" + ", ".join(f"{name} {version}" for name, version in sorted(VERSIONS.items())))


if __name__ == "__main__":
    main()
