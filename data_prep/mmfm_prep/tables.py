"""Rows of a table, whatever it is written as: CSV, TSV, JSON lines or Parquet, one file or several.

    for place, row in read_rows(Path("reviews.csv"), {"title", "photo"}): ...

Nothing is guessed: cells of CSV and TSV are strings, those of the other two what the file says.
"""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from mmfm_prep.errors import PrepError

Row = dict[str, Any]


def read_rows(path: Path, columns: Collection[str]) -> Iterator[tuple[str, Row]]:
    """(place, row) of every row: `place` is ``reviews.csv:17``, the line or (Parquet) the row,
    counted from 1.

    `path` is a table, or a folder of them, read by name. PrepError where it is none, where one of
    the `columns` is missing, or a line can't be read.
    """
    for file in _files(path):
        reader = _READERS[file.suffix.lower()]
        try:
            for number, row in reader(file):
                if missing := [name for name in columns if name not in row]:
                    raise PrepError(_no_column(f"{file}:{number}", missing[0], row))
                yield f"{file.name}:{number}", row
        except UnicodeDecodeError:
            raise PrepError(f"{file} is not UTF-8: convert it, e.g. with iconv") from None
        except csv.Error as error:
            raise PrepError(f"{file}: {error}") from None


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in _READERS)
        if not found:
            raise PrepError(f"{path} holds no table ({', '.join(_READERS)})")
        return found
    if not path.is_file():
        raise PrepError(f"there is no {path}")
    if path.suffix.lower() not in _READERS:
        raise PrepError(f"{path}: a table ends with {', '.join(_READERS)}")
    return [path]


def _delimited(delimiter: str) -> Callable[[Path], Iterator[tuple[int, Row]]]:
    def read(path: Path) -> Iterator[tuple[int, Row]]:
        csv.field_size_limit(1 << 30)
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, restval="")
            for row in reader:
                if None in row:
                    raise PrepError(
                        f"{path}:{reader.line_num}: more cells than the header has names "
                        f"({len(reader.fieldnames or ())}): is a cell with {delimiter!r} unquoted?"
                    )
                yield reader.line_num, row

    return read


def _json_lines(path: Path) -> Iterator[tuple[int, Row]]:
    with path.open(encoding="utf-8-sig") as file:
        names: set[str] = set()
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise PrepError(f"{path}:{number}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise PrepError(f"{path}:{number}: not an object: {line[:40].strip()}")
            # A key that earlier lines had may be left out where there is nothing to say.
            names |= row.keys()
            yield number, {**dict.fromkeys(names), **row}


def _parquet(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ModuleNotFoundError:
        raise PrepError("reading Parquet needs pyarrow: pip install 'mmfm[parquet]'") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except ArrowInvalid as error:
        raise PrepError(f"{path} is not a readable Parquet file: {error}") from None


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Row]]]] = {
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".jsonl": _json_lines,
    ".parquet": _parquet,
}


def _no_column(place: str, name: str, row: Row) -> str:
    near = difflib.get_close_matches(name, row, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(row)}"
    return f"{place}: there is no column {name!r}; {hint}"
