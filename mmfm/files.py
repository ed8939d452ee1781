"""Small files that are replaced in one step, checksums of large ones, files of one process."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from mmfm import distributed


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    distributed.place.work += 1
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace a small file in one step, so that a reader never sees half of it."""
    hidden = path.with_name(f".{path.name}.partial")
    hidden.write_text(text + "\n", encoding="utf-8")
    sync(hidden)
    hidden.rename(path)


def write_json(path: Path, value: Any) -> None:
    """The same with JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False))


def sync(path: Path) -> None:
    """Wait until the file, or the names in the folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def hold(file: IO[str], wait_s: float = 10.0) -> bool:
    """Keep an open file to this process and those that it forks, until it is closed; False where
    another one has it for `wait_s` seconds: the workers of a process that was killed take a moment
    to end. Where the file system knows no locks, nothing is kept.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        except OSError:
            return True
        else:
            return True


def let_go(file: IO[str]) -> None:
    """Close it, also for the processes that were forked meanwhile."""
    if not file.closed:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
        file.close()
