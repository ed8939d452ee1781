"""How far a long piece of work is: a bar in a terminal, else a line now and then. On stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 20.0


class Bar:
    """``with Bar("encoding") as bar: bar.update(done, total)``; silent unless `show`."""

    def __init__(self, what: str, show: bool = True) -> None:
        self.what, self.show = what, show
        self._terminal = sys.stderr.isatty()
        self._said = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not (show and self._terminal),
        )
        self._task = self._progress.add_task(what, total=None)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def update(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)
        now = time.monotonic()
        if self.show and not self._terminal and now - self._said > SECONDS_BETWEEN_LINES:
            self._said = now
            print(f"{self.what}: {done:,} of {total:,}", file=sys.stderr, flush=True)
