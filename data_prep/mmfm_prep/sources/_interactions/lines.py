"""Tables without quotes: cells between separators, a row a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mmfm_prep.errors import PrepError
from mmfm_prep.making.draft import LeftOut
from mmfm_prep.tables import Row


def split_lines(
    lines: Iterable[str], names: Sequence[str], separator: str, file: str, first: int = 1
) -> Iterator[tuple[str, Row] | LeftOut]:
    """A row a line that isn't empty, its cells by `names`; places count from `first` on."""
    for number, line in enumerate(lines, first):
        cells = line.rstrip("\r\n").split(separator)
        if len(cells) == len(names):
            yield f"{file}:{number}", dict(zip(names, cells, strict=True))
        elif line.strip():
            yield LeftOut(f"{file}:{number}", f"has not {len(names)} cells")


def read_lines(path: Path, encoding: str = "utf-8-sig") -> Iterator[str]:
    """The lines of a text file; PrepError where it is not of that `encoding`."""
    try:
        with path.open(encoding=encoding, newline="\n") as file:
            yield from file
    except UnicodeDecodeError:
        raise PrepError(f"{path} is not UTF-8: convert it, e.g. with iconv") from None


def utf8_or_latin1(path: Path) -> str:
    """The encoding of a small file that is in one of the two."""
    try:
        path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8-sig"
