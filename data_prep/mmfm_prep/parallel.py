"""Work on all cores, results in order."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 4  # chunks that wait for each process: enough to keep it busy, few enough for memory


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], chunk: int = 16, processes: int | None = None
) -> Iterator[R]:
    """``map(function, items)`` in `processes` (as many as there are cores), in the order of
    `items`, which are read only a few chunks ahead.

    `function`, items and results must be picklable. An exception of `function` is raised here, at
    its place in the order.
    """
    items = iter(items)
    workers = len(os.sched_getaffinity(0)) if processes is None else processes
    first = list(itertools.islice(items, chunk * workers))
    workers = min(workers, -(-len(first) // chunk))
    if workers <= 1:
        yield from map(function, itertools.chain(first, items))
        return
    # Spawned, not forked: a progress bar has a thread, and a fork could copy a lock it holds.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    waiting: deque[Future[list[R]]] = deque()
    try:
        for part in _chunks(itertools.chain(first, items), chunk):
            waiting.append(pool.submit(_each, function, part))
            if len(waiting) > _AHEAD * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    items = iter(items)
    while part := list(itertools.islice(items, size)):
        yield part


def _each(function: Callable[[T], R], items: list[T]) -> list[R]:
    return [function(item) for item in items]
