"""Work on all cores, results in order."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(function: Callable[[T], R], items: Sequence[T], chunk: int = 16) -> Iterator[R]:
    """``map(function, items)`` in as many processes as there are cores, in the order of `items`.

    `function`, items and results must be picklable. An exception of `function` is raised here, at
    its place in the order.
    """
    workers = min(len(os.sched_getaffinity(0)), -(-len(items) // chunk))
    if workers <= 1:
        yield from map(function, items)
        return
    # Spawned, not forked: a progress bar has a thread, and a fork could copy a lock it holds.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield from pool.map(function, items, chunksize=chunk)
    finally:
        pool.shutdown(cancel_futures=True)
