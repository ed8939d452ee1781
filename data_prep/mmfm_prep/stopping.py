"""A kill (SIGTERM) ends a command through its clean-up.

    with clean_end_on_sigterm():
        for sample in samples:
            check_stop()

The signal raises KeyboardInterrupt where it arrives. Inside a callback from C, as soundfile's
writing has, Python drops that exception; `check_stop` raises it again.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

_asked = threading.Event()


def check_stop() -> None:
    """Raises KeyboardInterrupt if a SIGTERM has come."""
    if _asked.is_set():
        raise KeyboardInterrupt


@contextmanager
def clean_end_on_sigterm() -> Iterator[None]:
    """Let a kill run the clean-up of the half-made folder."""

    def stop(*_: Any) -> NoReturn:
        _asked.set()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _asked.clear()
