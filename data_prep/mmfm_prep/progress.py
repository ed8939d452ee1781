"""Progress bars on stderr, so that stdout stays for results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")
_WIDTH = 160  # of what is no terminal: 80 columns would break the names of splits

console = Console(stderr=True, highlight=False, markup=False, emoji=False)


def stdout_console() -> Console:
    """A console on stdout that shows names and texts of the user's as they are, in lines that are
    not broken where stdout is no terminal.
    """
    width = None if sys.stdout.isatty() else _WIDTH
    return Console(highlight=False, markup=False, emoji=False, width=width)


def say(message: str) -> None:
    """One line on stderr, not wrapped."""
    console.print(message, soft_wrap=True, markup=False)


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """`items`, with a bar that says `what` is being done; silent where stderr is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield from progress.track(items, total=total, description=what)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Says `what` is being done, and for how long already, while the block runs: work whose length
    nobody knows. One line where stderr is no terminal.
    """
    if not console.is_terminal:
        say(what)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True
    ) as progress:
        progress.add_task(what, total=None)
        yield


@contextmanager
def counted(what: str) -> Iterator[Callable[[int], None]]:
    """A bar for work of unknown length; call what it gives with the number of things done. Silent
    where stderr is no terminal.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    done = TextColumn("{task.completed:,}")
    with Progress(*columns, done, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda number: progress.advance(task, number)
