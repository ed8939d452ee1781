"""Small files that are replaced in one step, and the checksums of large ones."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

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
