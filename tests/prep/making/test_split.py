"""Splits by connected components: nothing that is connected is ever separated."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mmfm_prep.making.split import assign, assign_by_time, connected_components


def test_a_chain_is_one_component() -> None:
    features = [("a", "x"), ("b", "x"), ("b", "y"), ("c", "y"), ("d", "z")]
    assert connected_components("abcde", features) == {
        "a": "a",
        "b": "a",
        "c": "a",
        "d": "d",
        "e": "e",
    }


@given(st.lists(st.tuples(st.sampled_from("abcdefghij"), st.integers(0, 12)), max_size=30))
def test_components_are_those_of_a_plain_search(features: list[tuple[str, int]]) -> None:
    items = "abcdefghij"
    has = {i: {f for item, f in features if item == i} for i in items}

    def reach(item: str) -> frozenset[str]:
        seen, waiting = {item}, [item]
        while waiting:
            one = waiting.pop()
            new = {o for o in items if has[o] & has[one]} - seen
            seen |= new
            waiting += new
        return frozenset(seen)

    found = connected_components(items, features)
    assert found == {i: min(reach(i)) for i in items}
    assert connected_components(items, reversed(features)) == found


def test_shares_are_met_and_stable() -> None:
    shares = {"train": 0.8, "val": 0.1, "test": 0.1}
    names = [f"group {i}" for i in range(5000)]
    split = assign(names, shares, seed=0)
    counts = Counter(split.values())
    assert abs(counts["train"] - 4000) < 120
    assert abs(counts["val"] - 500) < 90
    assert abs(counts["test"] - 500) < 90
    fewer = assign(names[::7], shares, seed=0)
    assert all(split[name] == fewer[name] for name in fewer)
    assert assign(names, shares, seed=1) != split


def test_by_time_what_is_equal_stays_together() -> None:
    shares = {"train": 0.5, "test": 0.5}
    assert assign_by_time({"a": (1, 1), "b": (2, 1), "c": (2, 1), "d": (3, 1)}, shares) == {
        "a": "train", "b": "test", "c": "test", "d": "test",
    }  # fmt: skip
    assert set(assign_by_time({str(i): (7, 1) for i in range(9)}, shares).values()) == {"test"}
