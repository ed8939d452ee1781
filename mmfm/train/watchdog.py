"""A thread that notices when a run stands still, and says which rank the others wait for.

    with Watchdog(run_folder, stall_s=600) as watchdog:
        watchdog.step = …  # at every step

When a rank has begun no step, no collective and no other work that is counted (`distributed.place`)
for `stall_s`, it writes the stacks of its threads to ``stall-rank<k>.txt`` and where it stands to
``stall-rank<k>.json`` in the run's folder. The first rank that can compares them, without any
collective, and tells. Where nothing moves for as long again, the processes end with code 3.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from mmfm import distributed
from mmfm.files import write_text

STALLED = 3
MAX_WAIT_FOR_OTHERS_S = 10.0


class Watchdog:
    """Watches between enter and exit; `stall_s` = 0: never. `step` is set by the loop."""

    def __init__(self, folder: Path, stall_s: float) -> None:
        self.folder, self.stall_s = folder, stall_s
        self.step = 0
        self._rank, self._ranks = distributed.rank(), distributed.world_size()
        self._end = threading.Event()

    def __enter__(self) -> Watchdog:
        if self.stall_s:
            self._mine.unlink(missing_ok=True)
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self.stall_s:
            self._thread.join()

    @property
    def _mine(self) -> Path:
        return self.folder / f"stall-rank{self._rank}.json"

    def _watch(self) -> None:
        seen, since, told = None, time.monotonic(), False
        while not self._end.wait(min(1.0, self.stall_s / 10)):
            now = time.monotonic()
            at = (self.step, distributed.place.begun, distributed.place.work)
            if at != seen:
                if told:
                    self._mine.unlink(missing_ok=True)
                    _say(f"rank {self._rank}: moves on")
                seen, since, told = at, now, False
            elif now - since > 2 * self.stall_s:
                _say(f"rank {self._rank}: still nothing moves: ends with code 3")
                os._exit(STALLED)
            elif now - since > self.stall_s and not told:
                told = True
                with suppress(OSError):  # a full disk, say
                    self._tell()

    def _tell(self) -> None:
        """Write where this rank stands; the lowest rank that has done so tells of all."""
        with self._mine.with_suffix(".txt").open("w") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        write_text(self._mine, json.dumps(where_it_stands(self.step)))
        patience = time.monotonic() + min(MAX_WAIT_FOR_OTHERS_S, self.stall_s / 2)
        while len(found := self._found()) < self._ranks and time.monotonic() < patience:
            if self._end.wait(0.1):
                return
        if min(found) == self._rank:
            told = compare(found, self._ranks)
            _say(
                f"step {self.step + 1} stands still for {self.stall_s:g} s: {told}; stall-rank*.txt"
                f" in {self.folder} show every stack"
            )

    def _found(self) -> dict[int, dict[str, Any]]:
        found = {}
        for rank in range(self._ranks):
            path = self.folder / f"stall-rank{rank}.json"
            if path.exists():
                found[rank] = json.loads(path.read_text())
        return found


def _say(text: str) -> None:
    with suppress(OSError):  # nobody may be left to read it
        print(text, file=sys.stderr, flush=True)


def where_it_stands(step: int) -> dict[str, Any]:
    """Of this process: the steps done, the collectives begun, the one it is in, the line of mmfm
    that it is at.
    """
    frames = sys._current_frames()
    main = threading.main_thread().ident
    stacks = [_stack(frame) for ident, frame in frames.items() if ident == main]
    # The backward of a GPU runs in a thread of its own.
    others = [_stack(frame) for ident, frame in frames.items() if ident != main]
    lines = [f for f in stacks[0] if f"{os.sep}mmfm{os.sep}" in f.f_code.co_filename]
    lines = [f for f in lines if not f.f_code.co_filename.endswith("distributed.py")]
    collective = distributed.place.name
    for stack in [*stacks, *others]:
        inside = [f for f in stack if f.f_code.co_filename.endswith("distributed_c10d.py")]
        if collective is None and inside:
            collective = inside[-1].f_code.co_name
    return {
        "step": step,
        "begun": distributed.place.begun,
        "collective": collective,
        "line": _line(lines[0]) if lines else "outside mmfm",
    }


def _stack(frame: FrameType | None) -> list[FrameType]:
    """From the innermost call outwards."""
    stack = []
    while frame is not None:
        stack.append(frame)
        frame = frame.f_back
    return stack


def _line(frame: FrameType) -> str:
    file = frame.f_code.co_filename.rpartition(f"{os.sep}mmfm{os.sep}")[2]
    return f"mmfm/{file}:{frame.f_lineno} in {frame.f_code.co_name}"


def compare(found: dict[int, dict[str, Any]], ranks: int) -> str:
    """Which ranks the others wait for, in words."""
    place = {r: (f["step"], f["begun"], f["collective"] is not None) for r, f in found.items()}
    first = max(place.values())
    waits = [rank for rank in found if place[rank] == first]
    behind = [rank for rank in found if place[rank] != first]
    silent = [rank for rank in range(ranks) if rank not in found]
    told = [f"no word from rank {rank}" for rank in silent]
    target = found[waits[0]]["collective"]
    for rank in behind:
        told.append(f"rank {rank} has not reached {target}, it is at {found[rank]['line']}")
    inside = f"waits in {target}" if target else "is"
    told += [f"rank {rank} {inside} at {found[rank]['line']}" for rank in waits]
    return "; ".join(told)
