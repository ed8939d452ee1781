"""Measurements in processes of their own, the peers taking turns."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.data_loading.environments import ROOT, environment
from benchmarks.data_loading.job import Job

VERSIONS: dict[str, str] = {}
"""Of what was measured."""


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
