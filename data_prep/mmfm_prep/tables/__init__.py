"""Rows of a table, whatever it is written as: CSV, TSV, JSON, JSON lines, Parquet or Arrow, one
file or several, packed by gzip, bzip2 or xz where it is text.

    for place, row in read_rows(Path("reviews.csv"), ["title", "photo"]): ...

Nothing is guessed: cells of CSV and TSV are strings, those of the others what the file says. What
a file doesn't say itself (a delimiter, an encoding, names of columns) is in `Layout`.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import zlib
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from mmfm_prep.errors import PrepError
from mmfm_prep.tables import columnar, delimited, json_rows
from mmfm_prep.tables.cells import parsed, selected
from mmfm_prep.tables.layout import Format, Layout

__all__ = ["Layout", "Row", "read_rows", "table_files"]

Row = dict[str, Any]
Open = Callable[[], IO[str]]
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_FORMATS: dict[str, Format] = {
    ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".json": "json", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow",
}  # fmt: skip
_SPREADSHEETS = (".xlsx", ".xls", ".ods")
_ARCHIVES = (".zip", ".7z", ".tar", ".tgz")


def read_rows(
    path: Path, columns: Collection[str], layout: Layout | None = None
) -> Iterator[tuple[str, Row]]:
    """(place, row) of every row of `table_files`: `place` is ``reviews.csv:17``, the line or (JSON,
    Parquet, Arrow) the row, counted from 1.

    A row has the `columns` (all of the file if there are none, and maybe others); one with dots
    leads into cells that are objects or lists: ``meta.title``, ``sentences.raw``, ``turns.1.text``.
    PrepError where one of the `columns` is missing, or a line can't be read.
    """
    layout = layout or Layout()
    inside = [name for name in columns if name.partition(".")[0] in layout.parse]
    asked = list(dict.fromkeys([*(n for n in columns if n not in inside), *layout.parse]))
    for file in table_files(path, layout):
        kind, packed = _kind(file, layout)
        if kind not in ("parquet", "arrow"):
            _check_no_zip(file)
        opener = _OPENERS.get(packed, open)
        as_text: Open = partial(opener, file, "rt", encoding=layout.encoding, newline="")
        try:
            for number, row in _rows(kind, file, as_text, asked, layout):
                for name in layout.parse:
                    row[name] = parsed(row[name], f"{file}:{number}, column {name}")
                yield f"{file.name}:{number}", row | selected(row, inside)
        except UnicodeError:
            told = layout.encoding.removesuffix("-sig").upper()
            raise PrepError(
                f"{file} is not {told}: say what it is, e.g. encoding=cp1252 (Western European), "
                "cp1251, gb18030, utf-16"
            ) from None
        except csv.Error as error:
            raise PrepError(f"{file}: {error}") from None
        except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
            raise PrepError(f"{file} can't be unpacked: {error}") from None


def table_files(path: Path, layout: Layout) -> list[Path]:
    """`path`, or the tables in this folder, by name. JSON in a folder of other tables says
    something about them, and is left out. PrepError where there is none.
    """
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if _is_table(p, layout))
        others = [p for p in found if _kind(p, layout)[0] != "json"]
        if layout.format is None and others:
            found = others
        if not found:
            inside = next((p for p in sorted(path.glob("*/*")) if _is_table(p, layout)), None)
            hint = f"; {inside.parent} does: name it" if inside else ""
            raise PrepError(f"{path} holds no table ({', '.join(_FORMATS)}){hint}")
        return found
    if not path.is_file():
        raise PrepError(f"there is no {path}")
    if path.suffix.lower() in _SPREADSHEETS:
        raise PrepError(f"{path} is a spreadsheet: save it as CSV (UTF-8)")
    if path.suffix.lower() in _ARCHIVES or path.name.endswith(".tar.gz"):
        raise PrepError(f"{path} is an archive: unpack it first")
    if _kind(path, layout)[0] is None:
        raise PrepError(
            f"{path}: a table ends with {', '.join(_FORMATS)}; for other endings say what it is: "
            "format=csv, tsv, jsonl, json, parquet or arrow"
        )
    return [path]


def _check_no_zip(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(4) == b"PK\3\4":
            raise PrepError(
                f"{path} is a spreadsheet or a zip archive, whatever it is called: save it as CSV "
                "(UTF-8), or unpack it"
            )


def _is_table(path: Path, layout: Layout) -> bool:
    kind = _FORMATS.get(_without_packing(path).suffix.lower())
    wanted = kind is not None and layout.format in (None, kind)
    return wanted and path.is_file() and not path.name.startswith(".")


def _kind(path: Path, layout: Layout) -> tuple[Format | None, str]:
    """(format, ending that says how it is packed)"""
    inner = _without_packing(path)
    packed = "" if inner == path else path.suffix.lower()
    return layout.format or _FORMATS.get(inner.suffix.lower()), packed


def _without_packing(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() in _OPENERS else path


def _rows(
    kind: Format | None, file: Path, as_text: Open, columns: Collection[str], layout: Layout
) -> Iterator[tuple[int, Row]]:
    if kind == "jsonl":
        return json_rows.lines(file, as_text, columns)
    if kind == "json":
        return json_rows.document(file, as_text, columns, layout.records)
    if kind == "parquet":
        return columnar.parquet_rows(file, columns)
    if kind == "arrow":
        return columnar.arrow_rows(file, columns)
    return delimited.rows(file, as_text, columns, layout, "\t" if kind == "tsv" else ",")
