"""Helper processes that end with the process that started them, and by its hand only."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What asks a run to stop. Schedulers and launchers send it to every process of a run, helpers
too.
"""


@contextmanager
def hard_of_hearing() -> Iterator[None]:
    """What is started in here is born with STOP_SIGNALS blocked: a run that is asked to stop still
    needs its helpers to end its step.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Call in a process of `multiprocessing`: it ends when the one that started it is gone, even by
    SIGKILL, where it would wait for work for ever, and when that one terminates it. STOP_SIGNALS of
    others don't reach it.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    sentinel, pid = parent.sentinel, parent.pid
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

    def watch() -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    def obey() -> None:
        while signal.sigwaitinfo(STOP_SIGNALS).si_pid != pid:
            pass
        os._exit(1)

    for work in (watch, obey):
        threading.Thread(target=work, name=f"end_with_parent: {work.__name__}", daemon=True).start()
