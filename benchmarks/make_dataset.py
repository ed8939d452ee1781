"""Seconds and peak memory of ``mmfm data make image_folder`` on about 7,000 drawings.

    python -m benchmarks.make_dataset [--workers 1 2] [--repeats 3] [--pictures FOLDER]

The pictures are Debian's openclipart-png, fetched with apt-get into the cache folder, or those of
any folder. `make` shrinks them to 256 pixels and writes shards, the numbers of workers taking
turns. Memory is read from /proc ten times a second: the resident memory of the largest process, and
the sum over all, once as it is (pages that processes share are counted for each of them) and once
with shared pages divided. Exits with 1 if the tars' sha256 depend on the number of workers.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.data_loading.sets import drawings

ROOT = Path(__file__).parent.parent
EVERY = 0.1


@dataclass
class Memory:
    """MiB at most: of one process, of all, of all with shared pages divided."""

    largest: float = 0.0
    together: float = 0.0
    divided: float = 0.0
    processes: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def watch(self, process: int) -> None:
        """Look at `process` and its descendants until `stop`."""
        while not self.stop.wait(EVERY):
            found = [read for pid in family(process) if (read := memory_of(pid)) is not None]
            if not found:
                continue
            resident, divided = zip(*found, strict=True)
            self.largest = max(self.largest, *resident)
            self.together = max(self.together, sum(resident))
            self.divided = max(self.divided, sum(divided))
            self.processes = max(self.processes, len(found))


def family(process: int) -> list[int]:
    """A process and its descendants."""
    found = [process]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):  # it has ended
                found += map(int, children.read_text().split())
    return found


def memory_of(process: int) -> tuple[float, float] | None:
    """Resident and proportional MiB; None for a process that has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        sizes = dict(line.split()[:2] for line in lines[1:])
        return int(sizes["Rss:"]) / 1024, int(sizes["Pss:"]) / 1024
    except (OSError, KeyError):
        return None


def make(pictures: Path, out: Path, workers: int) -> tuple[float, Memory]:
    """Seconds and memory of one command."""
    words = [sys.executable, "-m", "mmfm", "data", "make", "image_folder", str(pictures), str(out)]
    words += ["media.image_longest=256", f"--workers={workers}"]
    memory = Memory()
    start = time.perf_counter()
    process = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    watcher = threading.Thread(target=memory.watch, args=(process.pid,))
    watcher.start()
    said, _ = process.communicate()
    seconds = time.perf_counter() - start
    memory.stop.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}:\n{said}")
    return seconds, memory


def sums(folder: Path) -> list[tuple[str, str]]:
    """(name, sha256) of the tars."""
    return [
        (tar.name, hashlib.sha256(tar.read_bytes()).hexdigest())
        for tar in sorted(folder.glob("*.tar"))
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mmfm-benchmarks"
    parser.add_argument("--pictures", type=Path, help="a folder of folders of pictures")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=cache, help="(default: %(default)s)")
    arguments = parser.parse_args()
    pictures = arguments.pictures
    if pictures is None:
        found = drawings(arguments.cache)
        if not found:
            parser.error("openclipart-png can't be fetched here: name a folder with --pictures")
        pictures = Path(os.path.commonpath(found))
    seconds: defaultdict[int, list[float]] = defaultdict(list)
    memory: dict[int, Memory] = {}
    made: set[str] = set()
    shards = 0
    for _ in range(arguments.repeats):
        for workers in arguments.workers:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "out"
                taken, used = make(pictures, out, workers)
                found_sums = sums(out)
            seconds[workers].append(taken)
            # The median of the peaks would need more runs: the highest one is told.
            if workers not in memory or used.divided > memory[workers].divided:
                memory[workers] = used
            made.add(repr(found_sums))
            shards = len(found_sums)
            print(f"workers {workers}: {taken:.1f} s", file=sys.stderr, flush=True)
    print("| workers | seconds (least to most) | processes | largest, MiB | all, MiB | shared pages"
          " divided, MiB |\n| --- | --- | --- | --- | --- | --- |")  # fmt: skip
    for workers in arguments.workers:
        times, used = seconds[workers], memory[workers]
        print(
            f"| {workers} | {statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f})"
            f" | {used.processes} | {used.largest:.0f} | {used.together:.0f} | {used.divided:.0f} |"
        )
    equal = "equal" if len(made) == 1 else "NOT equal"
    print(f"\nsha256 of the {shards} tars: {equal} in {sum(map(len, seconds.values()))} runs")
    return 0 if len(made) == 1 else 1


if __name__ == "__main__":
    raise SystemExit(main())
