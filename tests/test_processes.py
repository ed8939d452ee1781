"""Helper processes don't outlive the process that started them, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PLAIN = """
import multiprocessing, os, time
from mmfm.processes import end_with_parent
def work(file):
    end_with_parent()
    open(file, "w").write(str(os.getpid()))
    time.sleep(600)
if __name__ == "__main__":
    for number in range(2):
        multiprocessing.get_context("spawn").Process(target=work, args=(f"{number}.pid",)).start()
    time.sleep(600)
"""

LOADER = """
import os
from mmfm.data.loading import load
class Work:
    def __getitem__(self, task):
        return os.getpid()
if __name__ == "__main__":
    for pid in load(Work(), range(10**9), workers=2, prefetch=1, pin_memory=False):
        open(f"{pid % 2}.pid", "w").write(str(pid))
"""

MAKE = """
import os, time
from mmfm_prep.parallel import Execution, ordered_map
def work(number):
    open(f"{number % 2}.pid", "w").write(str(os.getpid()))
    time.sleep(600 if number > 1 else 0)
if __name__ == "__main__":
    list(ordered_map(work, range(8), chunk=1, execution=Execution(2)))
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.parametrize("code", [PLAIN, LOADER, MAKE], ids=["plain", "loader", "make"])
def test_a_killed_process_leaves_none_behind(code: str, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "code.py"], cwd=tmp_path, env=environment) as main:
        try:
            pids: set[int] = set()
            end = time.monotonic() + 120
            while not pids:
                files = [path.read_text() for path in tmp_path.glob("*.pid")]
                pids = {int(text) for text in files if text}
                assert time.monotonic() < end
                time.sleep(0.1)
            assert main.pid not in pids
            assert all(alive(pid) for pid in pids)
        finally:
            main.send_signal(signal.SIGKILL)
    end = time.monotonic() + 30
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < end, "they are still there"
        time.sleep(0.1)


TERMINATED = """
import multiprocessing, os, signal, subprocess, time
from mmfm.processes import end_with_parent
def work(file):
    end_with_parent()
    open(file, "w").write("ready")
    time.sleep(600)
if __name__ == "__main__":
    helper = multiprocessing.get_context("spawn").Process(target=work, args=("helper",))
    helper.start()
    while not os.path.exists("helper"):
        time.sleep(0.01)
    for name in ("TERM", "USR1"):
        subprocess.run(["sh", "-c", f"kill -{name} {helper.pid}"], check=True)
    helper.join(0.5)
    assert helper.is_alive()
    helper.terminate()
    helper.join(5)
    assert not helper.is_alive()
"""


def test_a_helper_is_terminated_by_its_parent_alone(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(TERMINATED)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run(
        [sys.executable, "code.py"], cwd=tmp_path, env=environment, check=True, timeout=60
    )
