"""SIGTERM or SIGUSR1 stops a run after its step, with a checkpoint; a second one ends it at once.

    with StopSignals() as stop:
        while not stop.asked:
            …

A thread listens to them, so that the second one works where Python's own handlers don't run: in a
collective that never returns.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress

import psutil

from mmfm.processes import STOP_SIGNALS

SAME_STOP_S = 5.0
"""A launcher passes on what its ranks have got themselves: further signals in this time are the
same one.
"""


class StopSignals:
    """Between enter and exit, in the main thread, the signals set `asked` in place of ending the
    process.
    """

    def __init__(self, tell: bool = True) -> None:
        self.asked = False
        self.tell = tell

    def __enter__(self) -> StopSignals:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {s: signal.signal(s, lambda *_: None) for s in STOP_SIGNALS}
        self._thread = threading.Thread(target=self._listen, name="stop signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._write)  # ends the thread
        self._thread.join()
        os.close(self._read)

    def _listen(self) -> None:
        first = 0.0
        while numbers := os.read(self._read, 64):
            for number in numbers:
                if number not in STOP_SIGNALS:
                    continue
                again = self.asked and time.monotonic() - first > SAME_STOP_S
                if again or peer_is_gone():
                    os._exit(128 + number)
                if not self.asked:
                    self.asked, first = True, time.monotonic()
                    if self.tell:
                        name = signal.Signals(number).name
                        told = f"{name}: stops after this step; a second one ends at once"
                        with suppress(OSError):  # nobody may be left to read it
                            print(told, file=sys.stderr, flush=True)


def peer_is_gone() -> bool:
    """Whether another rank of DeepSpeed's launcher on this machine has ended.

    The launcher then ends the others by the same signal, one after the other, and would wait half a
    minute for each that waits for the lost one.
    """
    ranks = os.environ.get("LOCAL_SIZE")
    try:
        siblings = psutil.Process(os.getppid()).children()
        alive = [p for p in siblings if p.status() != psutil.STATUS_ZOMBIE]
    except psutil.Error:
        return False
    return ranks is not None and len(alive) < int(ranks)
