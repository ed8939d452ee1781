"""The process of one measurement: ``python -m benchmarks.data_loading.worker JOB``, JOB in JSON.

Its last line is JSON: seconds, samples, and the versions of what was measured.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.data_loading.job import Job


def rate(peer: Any, job: Job) -> tuple[float, int]:
    """Seconds and samples of this rank's share of a pass, from its first batch on."""
    batches = iter(peer.batches(job))
    counted = next(batches)
    meet(job)
    start, first = time.perf_counter(), counted
    share = job.samples // job.world // job.batch * job.batch
    for size in batches:
        counted += size
        if counted >= share:
            break
    return time.perf_counter() - start, counted - first


def meet(job: Job) -> None:
    """Wait until every rank is here."""
    if job.world == 1:
        return
    folder = Path(job.meeting)
    (folder / str(job.rank)).touch()
    while len(list(folder.iterdir())) < job.world:
        time.sleep(0.01)


def resume(peer: Any, job: Job) -> tuple[float, int]:
    """Seconds until the first batch, and its samples."""
    start = time.perf_counter()
    size = next(iter(peer.resumed(job)))
    return time.perf_counter() - start, size


def main() -> None:
    job = Job.loads(sys.argv[1])
    torch.set_num_threads(1)
    peer = importlib.import_module(f"benchmarks.data_loading.peers.{job.peer}")
    start, samples = time.perf_counter(), 0
    if job.action == "rate":
        seconds, samples = rate(peer, job)
    elif job.action == "resume":
        seconds, samples = resume(peer, job)
    else:
        {"prepare": peer.prepare, "save": peer.save}[job.action](job)
        seconds = time.perf_counter() - start
    versions = {name: version(name) for name in peer.PACKAGES}
    print(json.dumps({"seconds": seconds, "samples": samples, "versions": versions}))


if __name__ == "__main__":
    main()
