"""JSON lines, and JSON files that hold a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from mmfm_prep.errors import PrepError
from mmfm_prep.tables.cells import MISSING, find, names_of, no_column, selected

Rows = Iterator[tuple[int, dict[str, Any]]]
_LOOKED_AT = 1000
"""Rows one of which must have a column: keys may be left out where there is nothing to say."""


def lines(path: Path, as_text: Callable[[], IO[str]], columns: Collection[str]) -> Rows:
    """(line, row); PrepError for a line that is no object."""
    with as_text() as file:
        yield from _with(columns, path, _objects(path, file))


def document(
    path: Path, as_text: Callable[[], IO[str]], columns: Collection[str], records: str | None
) -> Rows:
    """(number, row) of a file that is one list of objects, or has one in it (at `records`), or is
    an object of columns, or of rows by name (the name is the column ``key``). Files that hold JSON
    lines are read as these. All of the file is held in memory.
    """
    with as_text() as file:
        if records is None and _is_lines(file):
            yield from _with(columns, path, _objects(path, file))
            return
        try:
            content = json.load(file)
        except UnicodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise PrepError(f"{path}: not JSON: {error}") from None
    if records is not None:
        inside = find(content, records)
        if not isinstance(inside, list | dict):
            raise PrepError(no_column(str(path), records, names_of([content]), "list"))
        content = inside
    found = _table(content)
    if found is None:
        raise PrepError(
            f"{path} holds no list of objects, or several: say which, e.g. records=annotations "
            f"(it has {', '.join(names_of([content])) or 'nothing of that kind'})"
        )
    yield from _with(columns, path, enumerate(found, 1))


def _objects(path: Path, file: IO[str]) -> Rows:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PrepError(f"{path}:{number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise PrepError(f"{path}:{number}: not an object: {line[:40].strip()}")
        yield number, row


def _is_lines(file: IO[str]) -> bool:
    """Whether the first line is an object and something follows; the file is at its start then."""
    first, second = file.readline(), file.readline()
    file.seek(0)
    if not second.strip():
        return False
    try:
        return isinstance(json.loads(first), dict)
    except ValueError:
        return False


def _table(content: Any) -> list[dict[str, Any]] | None:
    """The rows of a document; None where it is not plain which they are."""
    if isinstance(content, list):
        return content if all(isinstance(row, dict) for row in content) else None
    if not isinstance(content, dict) or not content:
        return None
    values = list(content.values())
    lists = [value for value in values if isinstance(value, list)]
    if len(lists) == len(values) and not any(isinstance(v, dict) for v in lists[0]):
        if len({len(value) for value in values}) > 1:
            return None
        return [dict(zip(content, cells, strict=True)) for cells in zip(*values, strict=True)]
    of_objects = [v for v in lists if v and all(isinstance(row, dict) for row in v)]
    if of_objects:
        return of_objects[0] if len(of_objects) == 1 else None
    if all(isinstance(value, dict) for value in values):
        if all(key.isdecimal() for value in values for key in value):  # as pandas writes columns
            keys = dict.fromkeys(key for value in values for key in value)
            return [{name: content[name].get(key) for name in content} for key in keys]
        return [{"key": key, **value} for key, value in content.items()]
    return None


def _with(columns: Collection[str], path: Path, rows: Rows) -> Rows:
    """`rows` with the `columns`; PrepError where none of the first has one of them."""
    first = list(islice(rows, _LOOKED_AT))
    known = [row for _, row in first]
    for name in columns if known else ():
        if all(find(row, name) is MISSING for row in known):
            raise PrepError(no_column(str(path), name, names_of(known)))
    every = dict.fromkeys(columns)
    for number, row in chain(first, rows):
        if not columns:  # keys that earlier rows had are there, and empty
            every |= dict.fromkeys(row)
        yield number, {**dict.fromkeys(every), **row, **selected(row, columns)}
