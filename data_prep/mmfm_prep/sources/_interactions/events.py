"""Events in memory: 24 bytes each, 16 without ratings, and each name of a person or item once."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfm_prep.errors import PrepError
from mmfm_prep.making.draft import LeftOut
from mmfm_prep.progress import counted
from mmfm_prep.sources._interactions.times import microseconds
from mmfm_prep.stopping import check_stop
from mmfm_prep.tables import Row
from mmfm_prep.tables.cells import dated, text

Rows = Iterable[tuple[str, Row] | LeftOut]
"""(place, row) of each row of a table, or why it can't be read."""

_FIRST = 3  # places that are named of each reason
_OFTEN = 1 << 16


@dataclass(frozen=True)
class EventColumns:
    """The columns of a table of events; without `time` the rows are in order. `time_format`: of
    `strptime`, for what is neither a number nor an ISO date.
    """

    user: str
    item: str
    time: str | None = None
    rating: str | None = None
    time_format: str | None = None

    def names(self) -> list[str]:
        return [name for name in (self.user, self.item, self.time, self.rating) if name]


@dataclass
class Lost:
    """Events that are in no history, by reason, with the first places."""

    reasons: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, reason: str, first: Iterable[str], events: int = 1) -> None:
        if not events:
            return
        entry = self.reasons.setdefault(reason, {"events": 0, "first": []})
        entry["events"] += events
        for place in first:
            if len(entry["first"]) == _FIRST:
                break
            entry["first"].append(place)

    @property
    def events(self) -> int:
        """How many they are."""
        return sum(entry["events"] for entry in self.reasons.values())

    def lines(self) -> Iterator[str]:
        for reason, entry in self.reasons.items():
            yield f"{entry['events']:,} events ({reason}), first {', '.join(entry['first'])}"


@dataclass
class Events:
    """E events in the order of the table: `user`, `item` [E] are places in `users` (of whom some
    may have no event) and `items`; `time` [E] in microseconds since 1970, 0 where there are none;
    `rating` [E], NaN where there is none.
    """

    users: list[str]
    items: list[str]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time: NDArray[np.int64]
    rating: NDArray[np.float64] | None
    timed: bool

    def __len__(self) -> int:
        return len(self.user)


def read_events(
    rows: Rows,
    columns: EventColumns,
    lost: Lost,
    *,
    min_rating: float | None = None,
) -> Events:
    """The events of a table; those that can't be used, or are rated less, go to `lost`."""
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    user, item, time, rating = array("i"), array("i"), array("q"), array("d")
    number = 0
    with counted("read events") as count:
        for number, entry in enumerate(rows, 1):
            if number % _OFTEN == 0:
                check_stop()
                count(_OFTEN)
            if isinstance(entry, LeftOut):
                lost.add(entry.reason, [entry.place])
                continue
            place, row = entry
            try:
                who, what = text(row[columns.user]), text(row[columns.item])
                if not who:
                    raise ValueError("user is empty")
                by = users.setdefault(who, len(users))
                if not what:
                    raise ValueError("item is empty")
                when = _when(row, columns)
                score = _rating(row[columns.rating], min_rating) if columns.rating else 0.0
            except ValueError as error:
                lost.add(str(error), [place])
                continue
            user.append(by)
            item.append(items.setdefault(what, len(items)))
            time.append(when)
            if columns.rating:
                rating.append(score)
        count(number % _OFTEN)
    return Events(
        users=list(users),
        items=list(items),
        user=np.frombuffer(user, dtype=np.int32),
        item=np.frombuffer(item, dtype=np.int32),
        time=np.frombuffer(time, dtype=np.int64),
        rating=np.frombuffer(rating, dtype=np.float64) if columns.rating else None,
        timed=columns.time is not None,
    )


def _when(row: Row, columns: EventColumns) -> int:
    if columns.time is None:
        return 0
    return microseconds(dated(row[columns.time], columns.time_format))


def _rating(value: Any, least: float | None) -> float:
    cell = text(value)
    if not cell:
        if least is not None:
            raise ValueError("rating is empty")
        return math.nan
    try:
        number = float(cell)
    except ValueError:
        raise ValueError("rating is no number") from None
    if not math.isfinite(number):
        raise ValueError("rating is not finite")
    if least is not None and number < least:
        raise ValueError(f"rating below {least:g}")
    return number


def nothing_left(lost: Lost, table: Path | str) -> PrepError:
    """The error where no event is left."""
    return PrepError(f"{table}: no event is left: {'; '.join(lost.lines()) or 'it has no rows'}")
