"""Which events make histories, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmfm_prep.sources._interactions.events import Events, Lost
from mmfm_prep.sources._interactions.times import seconds

Duplicates = Literal["all", "first", "last"]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

_SHOWN = 3


@dataclass(frozen=True)
class Person:
    """A history: names of items, the earliest first, with what is known of each event."""

    name: str
    items: list[str]
    times: list[int | float] | None
    ratings: list[float | None] | None

    def meta(self) -> dict[str, list[int | float] | list[float | None]]:
        """`times` (seconds since 1970) and `ratings`, where they are known."""
        found: dict[str, list[int | float] | list[float | None]] = {}
        if self.times is not None:
            found["times"] = self.times
        if self.ratings is not None:
            found["ratings"] = self.ratings
        return found


@dataclass(frozen=True)
class Rules:
    """Of the events of one person on one item all stay, the `first` or the `last`; then, again and
    again, people with less than `min_user` events and items with less than `min_item` go.
    """

    duplicates: Duplicates = "all"
    min_user: int = 0
    min_item: int = 0


def in_order(events: Events) -> Ints:
    """All events by person, then time, then row of the table; people by number, or by name."""
    names = events.users
    ranked = sorted(range(len(names)), key=lambda code: _natural(names[code]))
    rank = np.empty(len(names), dtype=np.int32)
    rank[ranked] = np.arange(len(names), dtype=np.int32)
    return np.lexsort((events.time, rank[events.user]))


def choose(events: Events, ordered: Ints, known: Flags, rules: Rules, lost: Lost) -> Ints:
    """Those of the `ordered` events whose items are `known` that keep to the rules, in the same
    order; the others go to `lost`.
    """
    rows = ordered[known[events.item[ordered]]]
    if rules.duplicates != "all":
        single = _single(events, rows, rules.duplicates)
        _lose(events, rows[~single], f"not the {rules.duplicates} of its user and item", lost)
        rows = rows[single]
    if rules.min_user > 1 or rules.min_item > 1:
        core = _core(events, rows, rules)
        reason = f"outside of the core (min_user {rules.min_user}, min_item {rules.min_item})"
        _lose(events, rows[~core], reason, lost)
        rows = rows[core]
    return rows


def people(events: Events, rows: Ints) -> Iterator[Person]:
    """The histories of `rows`, which are ordered by person."""
    user = events.user[rows]
    starts = np.flatnonzero(np.diff(user, prepend=-1))
    for start, end in zip(starts, np.append(starts, len(rows))[1:], strict=True):
        mine = rows[start:end]
        yield Person(
            name=events.users[user[start]],
            items=[events.items[code] for code in events.item[mine]],
            times=[seconds(t) for t in events.time[mine].tolist()] if events.timed else None,
            ratings=_ratings(events.rating[mine]) if events.rating is not None else None,
        )


def lose_items(events: Events, lost_items: Flags, reason: str, lost: Lost) -> None:
    """Count the events on the items that are marked in `lost_items`; these are named."""
    number = int(np.count_nonzero(lost_items[events.item]))
    codes = np.flatnonzero(lost_items)[:_SHOWN]
    lost.add(reason, [f"item/{events.items[code]}" for code in codes], number)


def _natural(name: str) -> tuple[bool, int, str]:
    is_number = name.isascii() and name.isdigit()
    return not is_number, int(name) if is_number else 0, name


def _single(events: Events, rows: Ints, which: Duplicates) -> Flags:
    pairs = events.user[rows].astype(np.int64) * len(events.items) + events.item[rows]
    step = 1 if which == "first" else -1
    _, first = np.unique(pairs[::step], return_index=True)
    single = np.zeros(len(rows), dtype=np.bool_)
    single[::step][first] = True
    return single


def _core(events: Events, rows: Ints, rules: Rules) -> Flags:
    user, item = events.user[rows], events.item[rows]
    stays = np.ones(len(rows), dtype=np.bool_)
    while True:
        by_user = np.bincount(user[stays], minlength=len(events.users))
        by_item = np.bincount(item[stays], minlength=len(events.items))
        enough = (by_user >= rules.min_user)[user] & (by_item >= rules.min_item)[item]
        if not np.any(stays & ~enough):
            return stays
        stays &= enough


def _lose(events: Events, rows: Ints, reason: str, lost: Lost) -> None:
    _, first = np.unique(events.user[rows], return_index=True)
    names = [f"user/{events.users[events.user[row]]}" for row in rows[np.sort(first)[:_SHOWN]]]
    lost.add(reason, names, len(rows))


def _ratings(values: NDArray[np.float64]) -> list[float | None]:
    return [None if rating != rating else rating for rating in values.tolist()]
