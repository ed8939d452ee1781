"""Fetching ahead: what a block holds, what is fetched when, and what is given up."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfm.data.manifest import Manifest
from mmfm.data.order import Order
from mmfm.data.remote.fetch import FetchError
from mmfm.data.remote.prefetch import Prefetcher, local_ranks
from mmfm.data.shard import Shard


class Recorded(Manifest):
    """Shards that are nowhere; what is asked of them is written down."""

    def __init__(self, sizes: list[int], remote: bool = True) -> None:
        super().__init__([Shard(f"{i}", "", 1, "", n, {"text": n}) for i, n in enumerate(sizes)])
        self.fetched: list[int] = []
        self.released: list[int] = []
        if remote:
            self.remote: Any = SimpleNamespace(release=self.released.append)

    def prefetch(self, shard: int, stop: threading.Event) -> None:
        self.fetched.append(shard)


def make_order(manifest: Manifest, streams: int = 2, block_shards: int = 2) -> Order:
    return Order([("set", manifest, None)], 3, streams, 4 * streams, block_shards)


def drawn(order: Order, stream: int, first: int, last: int) -> set[int]:
    return {d.shard for s in range(first, last) for d in order.stream_slots(s, stream)}


def wait_for(manifest: Recorded, count: int) -> list[int]:
    end = time.monotonic() + 30
    while len(manifest.fetched) < count and time.monotonic() < end:
        time.sleep(0.001)
    found, manifest.fetched[:] = list(manifest.fetched), []
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(sum),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 150),
)
def test_a_block_holds_the_shards_of_its_draws(
    sizes: list[int], streams: int, block_shards: int, position: int
) -> None:
    order = make_order(Recorded(sizes), streams, block_shards)
    for stream in range(streams):
        shards, end = order.block(0, stream, position)
        assert end > position
        draws = [order._draw(0, stream, p) for p in range(position, end)]
        assert {draw.shard for draw in draws} <= set(shards)
        if not order.composition()[0].dealt:
            assert len({draw.epoch for draw in draws}) == 1
            assert len(shards) <= block_shards
            first = position
            while first and order.block(0, stream, first - 1)[1] == end:
                first -= 1
            whole = {order._draw(0, stream, p).shard for p in range(first, end)}
            assert whole == set(shards)


def test_this_block_and_the_next_are_fetched_and_no_more() -> None:
    manifest = Recorded([20] * 12)  # each stream: 6 shards, blocks of 2, 10 steps a block
    order = make_order(manifest)
    with Prefetcher(order, [0, 1], connections=1) as ahead:
        ahead.advance(0)
        first = wait_for(manifest, 8)
        blocks = [drawn(order, stream, 0, 10) for stream in (0, 1)]
        assert set(first[:4]) == blocks[0] | blocks[1]
        assert {*first[:4:2]} == blocks[0]  # the streams in turn
        assert set(first[4:]) == drawn(order, 0, 10, 20) | drawn(order, 1, 10, 20)
        for step in range(1, 10):
            ahead.advance(step)
        assert manifest.released == []
        ahead.advance(10)
        assert set(wait_for(manifest, 8)[4:]) == drawn(order, 0, 20, 30) | drawn(order, 1, 20, 30)
        assert set(manifest.released) == blocks[0] | blocks[1]
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]


def test_a_rank_fetches_for_its_own_streams() -> None:
    manifest = Recorded([20] * 12)
    order = make_order(manifest)
    with Prefetcher(order, [1], connections=2) as ahead:
        ahead.advance(10)
        assert set(wait_for(manifest, 4)) == drawn(order, 1, 10, 30)


def test_what_a_run_resumes_with_and_what_it_passed() -> None:
    manifest = Recorded([20] * 12)
    order = make_order(manifest)
    ahead = Prefetcher(order, [0], connections=1)
    ahead.advance(0)
    ahead.advance(25)  # nothing was fetched meanwhile
    with ahead:
        wanted = drawn(order, 0, 20, 40)
        assert set(wait_for(manifest, len(wanted))) == wanted


def test_small_strata_are_fetched_whole_and_kept() -> None:
    manifest = Recorded([1] * 5)
    order = make_order(manifest)
    assert order.composition()[0].dealt
    with Prefetcher(order, [0], connections=1) as ahead:
        for step in range(20):
            ahead.advance(step)
        assert set(wait_for(manifest, 5)) == set(range(5))
        assert manifest.released == []


def test_local_shards_need_no_thread() -> None:
    before = threading.active_count()
    with Prefetcher(make_order(Recorded([20] * 4, remote=False)), [0], connections=3) as ahead:
        ahead.advance(0)
        assert threading.active_count() == before


def test_a_failure_is_left_to_who_needs_the_shard(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Recorded):
        def prefetch(self, shard: int, stop: threading.Event) -> None:
            super().prefetch(shard, stop)
            raise FetchError("no such shard")

    manifest = Failing([20] * 12)
    with Prefetcher(make_order(manifest), [0], connections=1) as ahead:
        ahead.advance(0)
        assert len(wait_for(manifest, 4)) == 4
    assert "not fetched ahead: no such shard" in caplog.text


def test_ranks_of_a_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert local_ranks(8) == 8
    monkeypatch.setenv("LOCAL_SIZE", "4")
    assert local_ranks(8) == 4
    assert local_ranks(2) == 2
