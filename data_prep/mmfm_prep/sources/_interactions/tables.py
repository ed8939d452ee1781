"""The two tables that interactions come in: events, and items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mmfm_prep.errors import PrepError
from mmfm_prep.making.draft import Draft, LeftOut
from mmfm_prep.sources._files import NamedFiles
from mmfm_prep.sources._interactions.events import EventColumns, Rows
from mmfm_prep.tables import Layout, Row, read_rows, table_files
from mmfm_prep.tables.cells import cell, named_by, one_text, text, texts

ITEMS = "items"


@dataclass(frozen=True, kw_only=True)
class ItemColumns:
    """The columns of a table of items; what is in those of `meta` is kept in the sample's JSON."""

    id: str
    image: str | None = None
    audio: str | None = None
    texts: dict[str, list[str]] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    meta: list[str] = field(default_factory=list)

    def names(self) -> list[str]:
        said = [column for columns in self.texts.values() for column in columns]
        made = [column for column in (self.image, self.audio, *said) if column]
        named = [name for column in made for name in named_by(column)]
        return [self.id, *named, *self.labels, *self.meta]


@dataclass(frozen=True, kw_only=True)
class ItemTable:
    """`rows` can be read again and again; paths in it start at `root`."""

    rows: Callable[[], Rows]
    columns: ItemColumns
    root: Path


@dataclass(frozen=True, kw_only=True)
class Tables:
    """`files`: all that is read of events; without `items` the items are those of the events."""

    events: Callable[[], Rows]
    columns: EventColumns
    files: list[Path]
    items: ItemTable | None


@dataclass(frozen=True)
class Table:
    """A table file, or a folder of such, and how it is laid out."""

    path: Path
    layout: Layout

    def rows(self, columns: list[str]) -> Callable[[], Rows]:
        return partial(read_rows, self.path, columns, self.layout)

    @property
    def folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent


def tables_of_columns(
    events: Table,
    columns: EventColumns,
    items: Table | None,
    of_items: ItemColumns,
    root: Path | None,
) -> Tables:
    """Tables of any columns."""
    table = None
    if items is not None:
        rows = items.rows(of_items.names())
        table = ItemTable(rows=rows, columns=of_items, root=root or items.folder)
    files = table_files(events.path, events.layout)
    return Tables(events=events.rows(columns.names()), columns=columns, files=files, items=table)


def drafts_of_table(table: ItemTable) -> Iterator[Draft | LeftOut]:
    """One draft an item, with the id ``item/<id>``."""
    columns = table.columns
    named = [name for name in (columns.image, columns.audio) if name]
    files = {name: NamedFiles(name, table.root) for name in named}
    for number, entry in enumerate(table.rows()):
        if isinstance(entry, LeftOut):
            yield entry
            continue
        place, row = entry
        try:
            yield _draft(number, place, row, columns, files)
        except ValueError as error:
            yield LeftOut(place, str(error))
    for found in files.values():
        found.end()


def drafts_of_names(names: Sequence[str]) -> Iterator[Draft]:
    """Items of which nothing is known but the name, which is their text."""
    for number, name in enumerate(names):
        yield _item(number, f"item {name}", name, texts={"en": [name]})


def item_id(name: str) -> str:
    """The id of the sample of an item."""
    return f"item/{name}"


def single(folder: Path, pattern: str) -> Path:
    """The one file in `folder` of that `pattern`; PrepError where it is none or several."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise PrepError(f"{folder} should hold one file {pattern}, it holds {names}")
    return found[0]


def _draft(
    number: int, place: str, row: Row, columns: ItemColumns, files: dict[str, NamedFiles]
) -> Draft:
    name = text(row[columns.id])
    if not name:
        raise ValueError("id is empty")
    told = {column: one_text(row[column], column) for column in columns.labels}
    return _item(
        number,
        place,
        name,
        texts={
            language: [found for column in said for found in texts(cell(row, column))]
            for language, said in columns.texts.items()
        },
        image=files[columns.image].medium(cell(row, columns.image)) if columns.image else None,
        audio=files[columns.audio].medium(cell(row, columns.audio)) if columns.audio else None,
        labels={column: label for column, label in told.items() if label},
        meta={column: row[column] for column in columns.meta},
    )


def _item(number: int, place: str, name: str, **content: Any) -> Draft:
    name = item_id(name)
    return Draft(place=place, key=f"{number:08d}", id=name, group=name, split=ITEMS, **content)
