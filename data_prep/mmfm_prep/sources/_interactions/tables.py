"""The two tables that interactions come in: events, and items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mmfm_prep.draft import Draft, LeftOut
from mmfm_prep.errors import PrepError
from mmfm_prep.sources._cells import media, text, texts
from mmfm_prep.sources._interactions.events import EventColumns, Rows
from mmfm_prep.tables import Row, read_rows

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
        said = [name for columns in self.texts.values() for name in columns]
        media_names = [name for name in (self.image, self.audio) if name]
        return [self.id, *media_names, *said, *self.labels, *self.meta]


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


def tables_of_columns(
    events: Path,
    columns: EventColumns,
    items: Path | None,
    of_items: ItemColumns,
    root: Path | None,
) -> Tables:
    """Tables of any columns: a file of events, or a folder of such, and one of items."""
    files = sorted(p for p in events.iterdir() if p.is_file()) if events.is_dir() else [events]
    table = None
    if items is not None:
        beside = items if items.is_dir() else items.parent
        read = partial(read_rows, items, of_items.names())
        table = ItemTable(rows=read, columns=of_items, root=root or beside)
    read = partial(read_rows, events, columns.names())
    return Tables(events=read, columns=columns, files=files, items=table)


def drafts_of_table(table: ItemTable) -> Iterator[Draft | LeftOut]:
    """One draft an item, with the id ``item/<id>``; of rows with the same id the first stays."""
    seen: set[str] = set()
    for number, entry in enumerate(table.rows()):
        if isinstance(entry, LeftOut):
            yield entry
            continue
        place, row = entry
        name = text(row[table.columns.id])
        if not name or name in seen:
            yield LeftOut(place, "id was there before" if name else "id is empty")
            continue
        seen.add(name)
        try:
            yield _draft(number, place, name, row, table)
        except ValueError as error:
            yield LeftOut(place, str(error))


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


def _draft(number: int, place: str, name: str, row: Row, table: ItemTable) -> Draft:
    columns = table.columns
    return _item(
        number,
        place,
        name,
        texts={language: texts(row, said) for language, said in columns.texts.items()},
        image=media(row, columns.image, table.root),
        audio=media(row, columns.audio, table.root),
        labels={column: said for column in columns.labels if (said := text(row[column]))},
        meta={column: row[column] for column in columns.meta},
    )


def _item(number: int, place: str, name: str, **content: Any) -> Draft:
    name = item_id(name)
    return Draft(place=place, key=f"{number:08d}", id=name, group=name, split=ITEMS, **content)
