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
from dataclasses import dataclass

import numpy as np

from mmfm_prep.errors import PrepError
from mmfm_prep.making.choose import Known
from mmfm_prep.making.draft import Draft, LeftOut, Made
from mmfm_prep.progress import say
from mmfm_prep.sample import Sample
from mmfm_prep.sources._interactions import histories
from mmfm_prep.sources._interactions.events import Events, Lost, nothing_left, read_events
from mmfm_prep.sources._interactions.histories import Ints, Rules
from mmfm_prep.sources._interactions.options import Options
from mmfm_prep.sources._interactions.tables import (
    ItemTable,
    Tables,
    drafts_of_names,
    drafts_of_table,
    item_id,
)
from mmfm_prep.tables.cells import text
from mmfm_prep.writer import file_sha256

USERS = "users"


@dataclass(kw_only=True)
class Config(Options):
    """See `Options`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._lost = Lost()
        self._events: Events | None = None
        self._rows: Ints = np.zeros(0, dtype=np.int64)
        self._listed: set[str] | None = None

    def held_out(self) -> tuple[str, ...]:
        return ()

    def input_digest(self) -> str:
        return self._digest(super().input_digest() if self.tables().items else "")

    def samples(self) -> Iterator[Sample]:
        tables = self.tables()
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
        tables = self.tables()
        if tables.items is not None:
            return drafts_of_table(tables.items)
        assert self._events is not None
        return iter(drafts_of_names(self._events.items))

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
        for file in self.tables().files:
            digest.update(file_sha256(file).encode())
        return digest.hexdigest()
