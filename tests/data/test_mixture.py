"""What a run has drawn by a step: equal to counting the draws."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from mmfm.data.manifest import Manifest
from mmfm.data.mixture import never_seen, progress
from mmfm.data.order import Draw, Order
from mmfm.data.shard import Shard


def manifest(*shards: dict[str, int]) -> Manifest:
    return Manifest(
        [Shard(f"{i}.tar", "/nowhere", 1, "0", sum(s.values()), s) for i, s in enumerate(shards)]
    )


SOURCES = [
    ("cut", manifest({"image+text": 70}, {"image+text": 33}, {"image+text": 7}), 3),
    ("dealt", manifest({"audio": 9}), 1),
    ("both", manifest({"audio": 5}, {"text": 90}), 2),
]


def drawn(order: Order, steps: int) -> list[Draw]:
    return [draw for step in range(steps) for draw in order.rank_draws(step, 0, 1)]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.sampled_from([(4, 16), (2, 8), (1, 4)]))
def test_progress_counts_the_draws_of_each_source(steps: int, sizes: tuple[int, int]) -> None:
    order = Order(SOURCES, 1, *sizes, allow_rare_strata=True)
    counts = Counter(draw.source for draw in drawn(order, steps))
    for number, source in enumerate(progress(order, steps)):
        assert source.source == SOURCES[number][0]
        assert source.samples == (110, 9, 95)[number]
        assert source.drawn == counts[number]
        assert source.epochs == counts[number] / source.samples


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 60), st.sampled_from([(4, 16), (2, 8), (1, 4)]))
def test_never_seen_counts_what_no_draw_is(steps: int, sizes: tuple[int, int]) -> None:
    order = Order(SOURCES, 1, *sizes, allow_rare_strata=True)
    places = {(d.stratum, d.shard, d.index) for d in drawn(order, steps)}
    seen = Counter(stratum for stratum, _, _ in places)
    expected = {
        (s.source_name, s.modality_set): s.samples - seen[number]
        for number, s in enumerate(order.strata)
        if seen[number] < s.samples
    }
    found = never_seen(order, steps)
    assert {(u.source, u.modality_set): u.never for u in found} == expected
    totals = {(s.source_name, s.modality_set): s.samples for s in order.strata}
    assert all(u.samples == totals[u.source, u.modality_set] for u in found)


def test_in_the_end_all_is_seen() -> None:
    order = Order(SOURCES, 1, 4, 16)
    assert never_seen(order, 1)
    assert not never_seen(order, 200)
