"""Ranks that fail, hang or are left alone leave no process behind."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import launch

SERVER = "http.server"  # runs until it is killed


def request(folder: Path, timeout: float) -> dict[str, Any]:
    ranks = [
        {"arguments": ["0"], "environment": dict(os.environ), "output": str(folder / str(rank))}
        for rank in range(2)
    ]
    return {"module": SERVER, "ranks": ranks, "timeout": timeout}


def test_what_a_rank_said_is_told() -> None:
    with pytest.raises(AssertionError, match=r"ended with 2:\n(.*\n)*.* --local_rank=[01]"):
        launch.on_ranks(2, SERVER, gpu=True)


def test_ranks_that_hang_are_killed(tmp_path: Path) -> None:
    server = launch.zygote(True)
    assert launch.ask(server, request(tmp_path, timeout=0.2)) == [None, None]
    assert not psutil.Process(server.pid).children()


def test_ranks_end_with_who_waits_for_them(tmp_path: Path) -> None:
    launch.zygote.cache_clear()
    server = launch.zygote(True)
    assert server.stdin is not None
    server.stdin.write(json.dumps(request(tmp_path, timeout=100)) + "\n")
    server.stdin.flush()
    while len(ranks := psutil.Process(server.pid).children()) < 2:
        time.sleep(0.01)
    launch.zygote.cache_clear()
    server.stdin.close()
    assert server.wait(timeout=30) == 0
    assert not psutil.wait_procs(ranks, timeout=30)[1]


def test_a_server_that_is_gone_is_replaced(tmp_path: Path) -> None:
    first = launch.zygote(True)
    first.kill()
    first.wait()
    with pytest.raises((AssertionError, BrokenPipeError)):
        launch.ask(first, request(tmp_path, timeout=0.2))
    assert launch.zygote(True) is not first
