"""Tasks ▶ results in worker processes, through PyTorch's loader: in order, with clear errors."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import multiprocessing.forkserver
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from mmfm.processes import end_with_parent, hard_of_hearing

_WORKER_IMPORTS = "mmfm.data.pipeline"

T_co = TypeVar("T_co", covariant=True)


class WorkerDiedError(RuntimeError):
    """A worker process ended before its work did."""


class Work(Protocol[T_co]):
    """What a worker does with a task; it is pickled once for each worker."""

    def __getitem__(self, task: Any, /) -> T_co: ...


class _Guarded(Dataset[Any]):
    """Hands a ValueError over as a value: the loader would bury its message in a traceback."""

    def __init__(self, work: Work[Any]) -> None:
        self.work = work

    def __getitem__(self, task: Any) -> Any:
        try:
            return {"result": self.work[task]}
        except ValueError as error:
            return {"error": str(error)}


class _Tasks:
    """An iterable without a length, which the loader takes as a sampler."""

    def __init__(self, tasks: Iterable[Any]) -> None:
        self.tasks = tasks

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tasks)


def load(
    work: Work[T_co], tasks: Iterable[Any], *, workers: int, prefetch: int, pin_memory: bool
) -> Iterator[T_co]:
    """``work[task]`` for each of `tasks`, in their order, whatever the number of `workers`.

    A ValueError in `work` is raised here with its message alone, WorkerDiedError if a worker died.
    """
    loader: DataLoader[Any] = DataLoader(
        _Guarded(work),
        batch_size=None,
        sampler=_Tasks(tasks),
        num_workers=workers,
        collate_fn=_unchanged,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_begin,
        multiprocessing_context=_context() if workers else None,
    )
    results = iter(loader)
    while True:
        try:
            made = next(results)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            if not _worker_died(error):
                raise
            raise WorkerDiedError(
                f"a data worker died: {error or type(error).__name__}. If it was killed for "
                "memory, lower data.workers or data.prefetch"
            ) from None
        if "error" in made:
            raise ValueError(made["error"])
        yield made["result"]


def _worker_died(error: Exception) -> bool:
    """Whether `error` comes from a worker's end, and was not raised by the work in it."""
    if str(error).startswith("Caught "):  # how torch passes on what a worker has raised
        return False
    # A worker that dies while a batch is on its way takes the batch's memory with it.
    lost = isinstance(error, ConnectionError | EOFError | FileNotFoundError)
    return lost or "exited unexpectedly" in str(error) or "killed by signal" in str(error)


def _context() -> multiprocessing.context.BaseContext:
    """Workers are forked from a clean server that has the imports: they start in milliseconds.

    Forked from this process they would inherit the locks and handles of torch's and CUDA's threads.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_WORKER_IMPORTS])
    with hard_of_hearing():
        multiprocessing.forkserver.ensure_running()
    return context


def _unchanged(item: Any) -> Any:
    return item


def _begin(worker: int) -> None:
    torch.set_num_threads(1)
    # torch's own watch looks at the fork server, which lives as long as a worker does.
    end_with_parent()
