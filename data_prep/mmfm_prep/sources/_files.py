"""The files that a table names: where they lie, and what to say if none of them is there."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from mmfm_prep.errors import PrepError
from mmfm_prep.making.draft import Media
from mmfm_prep.progress import say
from mmfm_prep.tables.cells import text

_TRIED = 100
_LOOKED_AT = 5000  # folders, for one that has the file


class NamedFiles:
    """Paths of `column`'s cells below `root`.

    As long as none of the files is there they are looked for; after the first hundred it is said,
    and `end` is an error if none was found at all.
    """

    def __init__(self, column: str, root: Path) -> None:
        self._column, self._root = column, root
        self._first = Path()
        self._missing = 0
        self._found = False

    def medium(self, value: Any) -> Media:
        """The bytes in a cell, or the file that it names; None where it is empty. ValueError where
        it names several, or a URL.
        """
        if isinstance(value, list):
            if len(value) > 1:
                raise ValueError(f"{self._column} names several files")
            value = value[0] if value else None
        if isinstance(value, dict):  # as Hugging Face's datasets write them
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return value or None
        name = text(value)
        if "://" in name:
            raise ValueError(f"{self._column} is a URL, not a file: fetch them first")
        return self.path(name) if name else None

    def path(self, name: str) -> Path:
        """The file of the name in a cell. A backslash parts folders as a slash does."""
        path = self._root / name.replace("\\", "/")
        if not self._found:
            self._found = _is_file(path)
            self._first = path if not self._missing else self._first
            self._missing += not self._found
            if self._missing == _TRIED:
                say(self._none(f"the first {_TRIED}"))
        return path

    def end(self) -> None:
        """PrepError if names were asked for and none was a file."""
        if self._missing and not self._found:
            raise PrepError(self._none(f"the {self._missing:,}"))

    def _none(self, which: str) -> str:
        return (
            f"{self._column}: none of {which} files is there, the first would be {self._first}; "
            f"{self._hint()}"
        )

    def _hint(self) -> str:
        if ending := _ending(self._first):
            column = f"./{{{self._column}}}{ending}"
            return f"with its ending {ending} it is: write {column} in quotes"
        if near := _elsewhere(self._first, self._root):
            return f"{near[0]} is there: root={near[1]}"
        return "say where they lie: root=FOLDER"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that can't be one
        return False


def _ending(path: Path) -> str:
    """What a file that is there has more than `path` at its end; "" where none is."""
    try:
        names = sorted(p.name for p in path.parent.glob(f"{glob.escape(path.name)}.*"))
    except (OSError, ValueError):
        return ""
    return names[0].removeprefix(path.name) if names else ""


def _elsewhere(path: Path, root: Path) -> tuple[Path, Path] | None:
    """A file near `root` whose path ends as `path` does below it, and the root that it would have.

    Looked for below `root`, then below the folder that holds it, if that is not the whole disk.
    """
    try:
        name = PurePosixPath(path.relative_to(root))
    except ValueError:
        name = PurePosixPath(path.name)
    above = root.absolute().parent
    for top in (root, above) if above != above.parent else (root,):
        for folder in islice(_folders(top), _LOOKED_AT):
            found = folder / name
            if _is_file(found):
                return found, folder
    return None


def _folders(top: Path) -> Iterator[Path]:
    for folder, inside, _ in os.walk(top):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        yield Path(folder)
