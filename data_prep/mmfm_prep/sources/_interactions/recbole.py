"""A folder of RecBole's atomic files: ``NAME.inter``, and ``NAME.item`` where there is one.

Cells stand between tabs, the header says ``field:type``. Where nothing else is asked for, the text
of an item is what its ``token_seq`` columns say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from mmfm_prep.errors import PrepError
from mmfm_prep.making.draft import LeftOut
from mmfm_prep.sources._interactions.events import EventColumns
from mmfm_prep.sources._interactions.lines import read_lines, split_lines
from mmfm_prep.sources._interactions.tables import ItemColumns, ItemTable, Tables, single
from mmfm_prep.tables import Row

EVENTS = EventColumns("user_id", "item_id", "timestamp", "rating")
TEXT = " (all texts)"
"""The name of the column that `rows` adds, which no header can hold."""


def tables(path: Path, columns: EventColumns, items: ItemColumns, root: Path | None) -> Tables:
    """The tables in a folder, or of its ``.inter``. `columns` as they are asked for; those that
    RecBole names and the file lacks may be missing.
    """
    events = path if path.is_file() else single(path, "*.inter")
    there = _names(events)
    columns = replace(
        columns,
        time=_unless_missing(columns.time, EVENTS.time, there),
        rating=_unless_missing(columns.rating, EVENTS.rating, there),
    )
    beside = events.with_suffix(".item")
    table = None
    if beside.is_file():
        if not (items.image or items.audio or items.texts):
            items = replace(items, texts={"en": [TEXT]})
        table = ItemTable(rows=lambda: _read(beside), columns=items, root=root or beside.parent)
        _check(beside, [name for name in items.names() if name != TEXT])
    elif items.names() != [items.id]:
        raise PrepError(f"there is no {beside}, so that nothing is known of the items")
    _check(events, columns.names())
    return Tables(events=lambda: _read(events), columns=columns, files=[events], items=table)


def rows(lines: Iterable[str], file: str) -> Iterator[tuple[str, Row] | LeftOut]:
    """The rows of an atomic file, with all its ``token_seq`` columns in `TEXT`."""
    lines = iter(lines)
    header = [field.partition(":") for field in next(lines, "").rstrip("\r\n").split("\t")]
    names = [name for name, _, _ in header]
    said = [name for name, _, kind in header if kind == "token_seq"]
    for entry in split_lines(lines, names, "\t", file, first=2):
        if not isinstance(entry, LeftOut) and said:
            row = entry[1]
            row[TEXT] = ". ".join(row[name] for name in said if row[name])
        yield entry


def _read(path: Path) -> Iterator[tuple[str, Row] | LeftOut]:
    return rows(read_lines(path), path.name)


def _names(path: Path) -> list[str]:
    fields = next(read_lines(path), "").rstrip("\r\n").split("\t")
    if not all(":" in field for field in fields):
        raise PrepError(f"{path}:1: the header of an atomic file says field:type, not {fields[:3]}")
    return [field.partition(":")[0] for field in fields]


def _unless_missing(asked: str | None, usual: str | None, there: list[str]) -> str | None:
    return None if asked == usual and asked not in there else asked


def _check(path: Path, needed: list[str]) -> None:
    there = _names(path)
    for name in needed:
        if name not in there:
            raise PrepError(f"{path}: there is no column {name!r}; it has {', '.join(there)}")
