"""Who chose what, and when: a table of events and one of items ▶ items, and people's histories.

    mmfm data make interactions orders.csv data/shop user=customer item=sku time=ordered \\
        items=articles.csv image=photo 'texts.en=[title, brand]'
    mmfm data make interactions ml-25m data/ml-25m preset=movielens
    mmfm data make interactions amazon-books data/books preset=recbole

Split `items` holds one sample an item, split `users` one a person, whose `history` are the ids of
items by time and, where times are equal, by row of the table. Without `items` the text of an item
is its name in the events. Events on what is no item, or can't be one (a broken picture), are in no
history, and counted. It is the recommendation tasks that keep the last items of each history for
evaluation; a split of all histories at one point in time is not made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from mmfm_prep.choose import Known, SplitBy
from mmfm_prep.draft import Draft, LeftOut, Made
from mmfm_prep.errors import PrepError
from mmfm_prep.from_files import FilesSource
from mmfm_prep.progress import say
from mmfm_prep.sample import Sample
from mmfm_prep.sources._cells import text
from mmfm_prep.sources._interactions import histories, movielens, recbole
from mmfm_prep.sources._interactions.events import (
    EventColumns,
    Events,
    Lost,
    nothing_left,
    read_events,
)
from mmfm_prep.sources._interactions.histories import Duplicates, Ints, Rules
from mmfm_prep.sources._interactions.tables import (
    ItemColumns,
    ItemTable,
    Tables,
    drafts_of_names,
    drafts_of_table,
    item_id,
    tables_of_columns,
)
from mmfm_prep.sources._interactions.times import Unit
from mmfm_prep.writer import file_sha256

USERS = "users"
_READ = ("user", "item", "time", "rating", "items", "items_id", "image", "audio", "texts", "labels")


@dataclass(kw_only=True)
class Config(FilesSource):
    """`user`, `item`, `time`, `rating`: columns of the events; without `time` it is the rows that
    are in order. Times are ISO 8601 or numbers of `time_unit`s since 1970. `items`: the table of
    items, with `items_id` (default: as `item`) and, as in `table`, `image`, `audio`, `texts`,
    `labels`, `root`.

    Events rated below `min_rating` are in no history. Of several events of one person on one item
    `duplicates` stay. Then people with less than `min_user` events and items with less than
    `min_item` go, again and again until all have so many.
    """

    # People are one split and items the other: there is nothing to share out, nothing held out.
    shares: ClassVar[dict[str, float]] = {"items": 1.0}  # type: ignore[misc]
    split_by: ClassVar[SplitBy] = "group"  # type: ignore[misc]
    drop_leaks: ClassVar[bool] = False  # type: ignore[misc]

    preset: Literal["movielens", "recbole"] | None = None
    user: str | None = None
    item: str | None = None
    time: str | None = None
    rating: str | None = None
    time_unit: Unit = "s"
    items: Path | None = None
    items_id: str | None = None
    image: str | None = None
    audio: str | None = None
    texts: dict[str, list[str]] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    root: Path | None = None
    min_rating: float | None = None
    duplicates: Duplicates = "all"
    min_user: int = 0
    min_item: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)
        self._lost = Lost()
        self._events: Events | None = None
        self._rows: Ints = np.zeros(0, dtype=np.int64)
        self._listed: set[str] | None = None

    def held_out(self) -> tuple[str, ...]:
        return ()

    def input_digest(self) -> str:
        return self._digest(super().input_digest() if self._tables().items else "")

    def samples(self) -> Iterator[Sample]:
        tables = self._tables()
        self._events = self._read(tables)
        rows = len(self._events) + self._lost.events
        if tables.items is not None:
            self._listed = self._names(tables.items, self._events)
        yield from super().samples()
        if tables.items is None:  # their drafts are made of the events
            self.notes["input_sha256"] = ""
        self.notes["input_sha256"] = self._digest(self.notes["input_sha256"])
        yield from self._people(self._events, rows)

    def drafts(self) -> Iterator[Draft | LeftOut]:
        tables = self._tables()
        if tables.items is not None:
            return drafts_of_table(tables.items)
        return iter(drafts_of_names((self._events or self._read(tables)).items))

    def last_choice(self, known: Known, splits: list[str | LeftOut]) -> list[str | LeftOut]:
        """Choose the events, now that it is known which items there are, and then the items that
        are in enough of them.
        """
        events, lost = self._events, self._lost
        assert events is not None
        pairs = zip(known(), splits, strict=True)
        kept = {m.sample.id for m, s in pairs if isinstance(m, Made) and isinstance(s, str)}
        there = np.array([item_id(name) in kept for name in events.items], dtype=np.bool_)
        if self._listed is not None:
            listed = np.array([name in self._listed for name in events.items], dtype=np.bool_)
            histories.lose_items(events, ~listed, "item is not in the table of items", lost)
            histories.lose_items(events, listed & ~there, "item was left out", lost)
        else:
            histories.lose_items(events, ~there, "item was left out", lost)
        rules = Rules(self.duplicates, self.min_user, self.min_item)
        self._rows = histories.choose(events, histories.in_order(events), there, rules, lost)
        if not len(self._rows):
            raise nothing_left(lost, self.input)
        if self.min_item < 2:
            return splits
        count = np.bincount(events.item[self._rows], minlength=len(events.items))
        enough = {item_id(events.items[c]) for c in np.flatnonzero(count >= self.min_item)}
        return [
            LeftOut(made.place, f"item is in fewer than {self.min_item} events")
            if isinstance(made, Made) and isinstance(split, str) and made.sample.id not in enough
            else split
            for made, split in zip(known(), splits, strict=True)
        ]

    def _people(self, events: Events, rows: int) -> Iterator[Sample]:
        number = 0
        for number, person in enumerate(histories.people(events, self._rows), 1):
            name = f"user/{person.name}"
            yield Sample(
                key=f"{number - 1:08d}",
                id=name,
                group=name,
                split=USERS,
                history=[item_id(item) for item in person.items],
                source=self.input.name,
                licence=self.licence,
                meta=person.meta(),
            )
        left = len(self._rows)
        told = {"rows": rows, "in_histories": left, "left_out": self._lost.reasons}
        self.notes["events"] = told
        self.notes["users"] = {"in_events": len(events.users), "with_history": number}
        say(f"{left:,} of {rows:,} events are in {number:,} histories")
        for line in self._lost.lines():
            say(f"left out: {line}")

    def _read(self, tables: Tables) -> Events:
        events = read_events(
            tables.events(),
            tables.columns,
            self._lost,
            unit=self.time_unit,
            min_rating=self.min_rating,
        )
        if not len(events):
            raise nothing_left(self._lost, self.input)
        return events

    def _names(self, table: ItemTable, events: Events) -> set[str]:
        """What the items of the table are called; PrepError where no event is on one."""
        key, rows = table.columns.id, table.rows()
        found = [text(entry[1][key]) for entry in rows if not isinstance(entry, LeftOut)]
        names = set(found)
        if names.isdisjoint(events.items):
            raise PrepError(
                f"no event is on an item of the table: events name {events.items[:3]}, "
                f"column {key!r} of the table has {found[:3]}"
            )
        return names

    def _digest(self, items: str) -> str:
        digest = hashlib.sha256(items.encode())
        for file in self._tables().files:
            digest.update(file_sha256(file).encode())
        return digest.hexdigest()

    def _tables(self) -> Tables:
        if self.preset == "movielens":
            return movielens.tables(self.input)
        usual = recbole.EVENTS if self.preset == "recbole" else EventColumns("", "")
        columns = EventColumns(
            self.user or usual.user,
            self.item or usual.item,
            self.time or usual.time,
            self.rating or usual.rating,
        )
        items = ItemColumns(
            id=self.items_id or columns.item,
            image=self.image,
            audio=self.audio,
            texts=self.texts,
            labels=self.labels,
        )
        if self.preset == "recbole":
            return recbole.tables(self.input, columns, items, self.root)
        return tables_of_columns(self.input, columns, self.items, items, self.root)


def _check(config: Config) -> None:
    """ValueError where the options don't fit each other."""
    given = [name for name in (*_READ, "root") if getattr(config, name)]
    if config.preset == "movielens" and given:
        raise ValueError(f"preset=movielens knows its columns: leave out {', '.join(given)}")
    if config.preset == "recbole" and config.items:
        raise ValueError("preset=recbole reads the items beside the events: leave out items")
    if config.preset is None:
        content = bool(config.image or config.audio or any(config.texts.values()))
        if not config.user or not config.item:
            raise ValueError("name columns of the events: user=…, item=… (or a preset=…)")
        if config.items and not content:
            raise ValueError("name columns of the items: image=…, audio=… or 'texts.en=[…]'")
        if not config.items and (content or config.items_id or config.labels or config.root):
            raise ValueError("name the table of items, too: items=…")
        if config.min_rating is not None and not config.rating:
            raise ValueError("min_rating needs the column: rating=…")
    if config.min_user < 0 or config.min_item < 0:
        raise ValueError("min_user and min_item must be 0 or more")
