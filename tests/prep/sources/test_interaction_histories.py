"""Order, duplicates and core of events, against what plain Python says of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfm_prep.sources._interactions.events import EventColumns, Events, Lost, read_events
from mmfm_prep.sources._interactions.histories import Rules, choose, in_order, people

ROWS = st.lists(
    st.tuples(st.integers(0, 11), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40
)
"""(person, item, time)"""


def events_of(rows: list[tuple[int, int, int]]) -> Events:
    table = [("", dict(zip("uit", row, strict=True))) for row in rows]
    return read_events(table, EventColumns("u", "i", "t"), Lost())


def chosen(rows: list[tuple[int, int, int]], rules: Rules, unknown: int = -1) -> dict[int, list]:
    """By person the (item, time) that stay, and whether all others were counted."""
    events, lost = events_of(rows), Lost()
    known = np.array([name != str(unknown) for name in events.items])
    kept = choose(events, in_order(events), known, rules, lost)
    on_unknown = sum(item == unknown for _, item, _ in rows)
    assert len(kept) + lost.events + on_unknown == len(rows)
    found = {}
    for person in people(events, kept):
        assert person.times is not None
        assert person.ratings is None
        items = [int(item) for item in person.items]
        found[int(person.name)] = list(zip(items, person.times, strict=True))
    return found


@given(ROWS, st.integers(-1, 4))
def test_order(rows: list[tuple[int, int, int]], unknown: int) -> None:
    expected: dict[int, list] = {}
    for user, item, time in sorted(rows, key=lambda row: (row[0], row[2])):  # stable
        if item != unknown:
            expected.setdefault(user, []).append((item, time))
    found = chosen(rows, Rules(), unknown)
    assert found == expected
    assert list(found) == sorted(expected)


@given(ROWS)
def test_duplicates(rows: list[tuple[int, int, int]]) -> None:
    every = chosen(rows, Rules())
    first = chosen(rows, Rules(duplicates="first"))
    last = chosen(rows, Rules(duplicates="last"))
    for user, history in every.items():
        items = [item for item, _ in history]
        at = [n for n, item in enumerate(items) if item not in items[:n]]
        assert first[user] == [history[n] for n in at]
        at = [n for n, item in enumerate(items) if item not in items[n + 1 :]]
        assert last[user] == [history[n] for n in at]


@given(ROWS, st.integers(0, 4), st.integers(0, 8))
def test_the_core_is_the_largest(
    rows: list[tuple[int, int, int]], min_user: int, min_item: int
) -> None:
    left = list(rows)
    while True:
        users, items = Counter(u for u, _, _ in left), Counter(i for _, i, _ in left)
        fewer = [r for r in left if users[r[0]] >= min_user and items[r[1]] >= min_item]
        if fewer == left:
            break
        left = fewer
    found = chosen(rows, Rules(min_user=min_user, min_item=min_item))
    assert found == chosen(left, Rules()) if left else not found


def test_people_are_by_number_then_by_name() -> None:
    rows = [(name, 1, 1) for name in ("b", "10", "a", "9", "07", "²")]
    events = events_of(rows)  # type: ignore[arg-type]
    assert [person.name for person in people(events, in_order(events))] == [
        "07", "9", "10", "a", "b", "²",
    ]  # fmt: skip


@pytest.mark.parametrize("rated", [True, False])
def test_an_event_takes_few_bytes(rated: bool) -> None:
    table = [("", {"u": str(n % 7), "i": str(n % 5), "t": n, "r": 1}) for n in range(1000)]
    events = read_events(table, EventColumns("u", "i", "t", "r" if rated else None), Lost())
    arrays = [events.user, events.item, events.time, *([events.rating] if rated else [])]
    assert sum(array.nbytes for array in arrays) == 1000 * (24 if rated else 16)
