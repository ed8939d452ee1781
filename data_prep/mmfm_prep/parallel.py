"""Work on all cores, or on all machines of a Ray cluster, results in order."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from mmfm.processes import end_with_parent
from mmfm_prep.errors import PrepError

T = TypeVar("T")
R = TypeVar("R")

Engine = Literal["local", "ray"]

_AHEAD = 4  # chunks that wait for each process: enough to keep it busy, few enough for memory

Submit = Callable[[Callable[[Any], Any], list[Any]], Callable[[], list[Any]]]
"""Starts ``map(function, items)`` somewhere; what it returns waits for the results."""


@dataclass(frozen=True)
class Execution:
    """How a dataset is made, which changes nothing in it.

    `workers`: processes, as many as there are cores if None. `engine`: on this machine, or on the
    Ray cluster that ``RAY_ADDRESS`` names (a local one without); all its machines must see the same
    files. `work`: the folder where unfinished work waits.
    """

    workers: int | None = None
    engine: Engine = "local"
    work: Path | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise PrepError(f"--workers {self.workers} must be at least 1")


ALL_CORES = Execution()


def ordered_map(
    function: Callable[[T], R],
    items: Iterable[T],
    chunk: int = 16,
    execution: Execution = ALL_CORES,
) -> Iterator[R]:
    """``map(function, items)`` in several processes, in the order of `items`, which are read only a
    few chunks ahead.

    `function`, items and results must be picklable. An exception of `function` is raised here, at
    its place in the order; PrepError where a process was killed.
    """
    items = iter(items)
    workers = execution.workers or len(os.sched_getaffinity(0))
    first = list(itertools.islice(items, chunk * workers))
    workers = min(workers, -(-len(first) // chunk))
    if workers <= 1 and execution.engine == "local":
        yield from map(function, itertools.chain(first, items))
        return
    waiting: deque[Callable[[], list[R]]] = deque()
    with _ENGINES[execution.engine](workers) as submit:
        for part in _chunks(itertools.chain(first, items), chunk):
            waiting.append(submit(function, part))
            if len(waiting) > _AHEAD * workers:
                yield from waiting.popleft()()
        while waiting:
            yield from waiting.popleft()()


@contextmanager
def _processes(workers: int) -> Iterator[Submit]:
    # Spawned, not forked: a progress bar has a thread, and a fork could copy a lock it holds.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent)

    def submit(function: Callable[[T], R], part: list[T]) -> Callable[[], list[R]]:
        future: Future[list[R]] = pool.submit(_each, function, part)
        return future.result

    try:
        yield submit
    except BrokenProcessPool:
        raise PrepError(
            "a process was killed, perhaps for memory: --workers with a smaller number needs less"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _ray(workers: int) -> Iterator[Submit]:
    try:
        import ray
    except ModuleNotFoundError:
        raise PrepError("--engine ray needs Ray: pip install 'mmfm[ray]'") from None
    started = not ray.is_initialized()
    if started:
        local = None if "RAY_ADDRESS" in os.environ else workers
        ray.init(num_cpus=local, include_dashboard=False, logging_level="warning")

    each = ray.remote(_each)

    def submit(function: Callable[[T], R], part: list[T]) -> Callable[[], list[R]]:
        reference = each.remote(function, part)

        def result() -> list[R]:
            try:
                found: list[R] = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[0]
                raise PrepError(f"the Ray cluster lost the work: {reason}") from None
            return found

        return result

    try:
        yield submit
    finally:
        if started:
            ray.shutdown()


_ENGINES: dict[Engine, Callable[[int], AbstractContextManager[Submit]]] = {
    "local": _processes,
    "ray": _ray,
}


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    items = iter(items)
    while part := list(itertools.islice(items, size)):
        yield part


def _each(function: Callable[[T], R], items: list[T]) -> list[R]:
    return [function(item) for item in items]
