"""A signal stops a run after its step; a second one, or one as another rank is gone, at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from mmfm.processes import STOP_SIGNALS
from mmfm.train.signals import StopSignals, peer_is_gone
from tests.launch import ROOT


def wait_for(stop: StopSignals) -> bool:
    deadline = time.monotonic() + 5
    while not stop.asked and time.monotonic() < deadline:
        time.sleep(0.01)
    return stop.asked


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_asks_to_stop(number: int, capfd) -> None:
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert not stop.asked
        os.kill(os.getpid(), number)
        assert wait_for(stop)
        os.kill(os.getpid(), number)  # passed on by a launcher: the same one
        time.sleep(0.1)
    assert signal.getsignal(number) == before
    told = f"{signal.Signals(number).name}: stops after this step; a second one ends at once\n"
    assert capfd.readouterr().err == told


def test_other_signals_are_as_before() -> None:
    # A job in a shell's background ignores it, and its tests would too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with StopSignals() as stop, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)
    assert not stop.asked


# The main thread waits where no handler of Python can run, as in a collective.
STUCK = """
import ctypes
from mmfm.train import signals
signals.SAME_STOP_S = 0.2
library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
library.pthread_mutex_lock(mutex)
with signals.StopSignals():
    print("ready", flush=True)
    library.pthread_mutex_lock(mutex)
"""


def stuck(**environment: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    return process


def test_a_second_signal_ends_a_process_that_is_stuck() -> None:
    process = stuck()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM


def test_no_rank_waits_for_one_that_is_gone() -> None:
    process = stuck(LOCAL_SIZE="1000")  # more than this process has children
    assert process.wait(30) == 128 + signal.SIGTERM


@pytest.mark.parametrize(("ranks", "gone"), [("1", False), ("1000", True), (None, False)])
def test_whether_a_peer_is_gone(monkeypatch, ranks: str | None, gone: bool) -> None:
    monkeypatch.delenv("LOCAL_SIZE", raising=False)
    if ranks is not None:
        monkeypatch.setenv("LOCAL_SIZE", ranks)
    assert peer_is_gone() == gone
