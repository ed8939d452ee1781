"""What is made of the cells of a table, whatever it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmfm_prep.draft import Media
from mmfm_prep.tables import Row


def text(value: Any) -> str:
    """A cell as text; "" where it is empty."""
    return "" if value is None else str(value).strip()


def texts(row: Row, columns: list[str]) -> list[str]:
    """The texts in `columns`; a cell may be a list of them."""
    found = []
    for column in columns:
        value = row[column]
        found += [text(v) for v in value] if isinstance(value, list) else [text(value)]
    return found


def media(row: Row, column: str | None, root: Path) -> Media:
    """The bytes in a cell, or the path of the file that it names, from `root` on; None where it is
    empty or there is no `column`. ValueError where it names a URL.
    """
    value = row[column] if column else None
    if isinstance(value, dict):  # as Hugging Face's datasets write them
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value or None
    name = text(value)
    if "://" in name:
        raise ValueError(f"{column} is a URL, not a file: fetch them first")
    return root / name if name else None
