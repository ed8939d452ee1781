"""What the data order promises, for mixtures of any kind: uneven shards, strata smaller than the
streams, sources that lack modalities, weights down to 1 in 10,000.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfm.config import from_dict
from mmfm.data.manifest import Manifest
from mmfm.data.order import Draw, Order
from mmfm.data.pipeline import DataConfig, Pipeline
from mmfm.data.schedule import MAX_DENOMINATOR
from mmfm.data.shard import Shard
from tests.data.make_shards import tri_modal_shards, write_set
from tests.data.test_pipeline import assert_same, by_identity, steps_of

SETS = ["audio", "image", "text", "image+text", "audio+text", "audio+image+text"]
# Of one stratum: a few samples, fewer than there are streams, or many in shards of any size.
shard_sizes = st.lists(st.integers(1, 40), min_size=1, max_size=6) | st.just([1]) | st.just([2, 1])
sources = st.dictionaries(st.sampled_from(SETS), shard_sizes, min_size=1, max_size=3)
weights = st.none() | st.integers(1, 50) | st.floats(0.1, 10)
seeds = st.integers(0, 2**63 - 1)


def made_up(sets: dict[str, list[int]]) -> Manifest:
    """Shards that exist nowhere, each of one modality set, in turn."""
    shards = [
        Shard(f"{name}-{i}.tar", "/nowhere", 1, "0", n, {name: n})
        for name, sizes in sets.items()
        for i, n in enumerate(sizes)
    ]
    return Manifest(shards[::2] + shards[1::2])


@st.composite
def orders(draw: Any) -> Order:
    mixture = draw(st.lists(st.tuples(sources, weights), min_size=1, max_size=3))
    streams = draw(st.sampled_from([1, 2, 3, 4, 6, 12]))
    slots = draw(st.integers(1, 5))
    return Order(
        [(str(i), made_up(sets), weight) for i, (sets, weight) in enumerate(mixture)],
        draw(seeds),
        streams,
        streams * slots,
        draw(st.integers(1, 4)),
        allow_rare_strata=True,
    )


def place(draw: Draw) -> tuple[int, int, int]:
    return draw.source, draw.shard, draw.index


def places(order: Order, stratum: int) -> list[tuple[int, int, int]]:
    """All samples of a stratum, in the order of its manifest."""
    found = order.strata[stratum]
    return [
        (found.source, shard, index)
        for shard, spec in enumerate(found.manifest.shards)
        for index in range(spec.modality_sets.get(found.modality_set, 0))
    ]


@settings(max_examples=60, deadline=None)
@given(orders())
def test_every_sample_once_an_epoch(order: Order) -> None:
    draws: dict[tuple[int, int], list[Draw]] = defaultdict(list)
    for step in range(1500 // order.global_batch_size + 1):
        for one in order.rank_draws(step, 0, 1):
            draws[one.stratum, one.stream].append(one)
    for number, stratum in enumerate(order.strata):
        samples = places(order, number)
        mine = [draws[number, stream] for stream in range(order.streams)]
        for column in mine:
            assert [d.position for d in column] == list(range(len(column)))
        if order.is_dealt(stratum):  # one sequence, which the streams take in turn
            dealt = [draw for row in zip(*mine, strict=True) for draw in row]
            parts = [(samples, dealt)]
        else:
            bounds = [order.bounds(stratum, stream) for stream in range(order.streams)]
            assert [low for low, _ in bounds] == [0, *(high for _, high in bounds[:-1])]
            assert bounds[-1][1] == len(samples)
            sizes = [high - low for low, high in bounds]
            assert max(sizes) - min(sizes) <= 1
            parts = [
                (samples[low:high], column)
                for (low, high), column in zip(bounds, mine, strict=True)
            ]
        for part, walked in parts:
            epochs = [walked[i : i + len(part)] for i in range(0, len(walked), len(part))]
            for epoch, one in enumerate(epochs):
                assert {draw.epoch for draw in one} == {epoch}
                assert len(set(map(place, one))) == len(one)
                assert set(map(place, one)) <= set(part)
                if len(one) == len(part):
                    assert set(map(place, one)) == set(part)


@settings(max_examples=60, deadline=None)
@given(orders(), st.integers(0, 10**9))
def test_a_global_batch_is_the_same_for_every_number_of_ranks(order: Order, step: int) -> None:
    whole = order.rank_draws(step, 0, 1)
    assert len(whole) == order.global_batch_size
    for world_size in (w for w in range(2, order.streams + 1) if order.streams % w == 0):
        ranks = [order.rank_draws(step, rank, world_size) for rank in range(world_size)]
        assert Counter(itertools.chain(*ranks)) == Counter(whole)
        # In the same places, ranks have samples of the same kind: they run the same modules.
        kinds = [[(d.stratum, d.position) for d in rank] for rank in ranks]
        assert all(k == kinds[0] for k in kinds)


@settings(max_examples=40, deadline=None)
@given(orders(), st.integers(1, 12))
def test_a_seek_equals_the_walk(order: Order, steps: int) -> None:
    for step in range(steps):
        order.rank_draws(step, 0, 1)
    arguments = (order.sources, order.seed, order.streams, order.global_batch_size)
    sought = Order(*arguments, order.block_shards, allow_rare_strata=True)
    assert sought.rank_draws(steps, 0, 1) == order.rank_draws(steps, 0, 1)


@settings(max_examples=15, deadline=None)
@given(sources, shard_sizes, seeds, st.sampled_from([1, 2, 4]), st.integers(0, 10**6))
def test_one_in_ten_thousand_comes_once_in_ten_thousand(
    often: dict[str, list[int]], rare: list[int], seed: int, streams: int, period: int
) -> None:
    mixture = [("often", made_up(often), MAX_DENOMINATOR - 1), ("rare", made_up({"text": rare}), 1)]
    order = Order(mixture, seed, streams, streams, allow_rare_strata=True)
    number = len(order.strata) - 1
    assert order.strata[number].source_name == "rare"
    assert order.round_robin.period == MAX_DENOMINATOR
    start = period * MAX_DENOMINATOR
    before = [order.round_robin.draws_before(number, start + i) for i in (0, MAX_DENOMINATOR)]
    assert before == [period, period + 1]
    slots = np.arange(start, start + MAX_DENOMINATOR)
    (slot,) = [int(t) for t in slots if order.round_robin.at(int(t))[0] == number]
    found = [order.stream_slots(slot, stream)[0] for stream in range(streams)]  # a slot a step
    assert [d.position for d in found] == [period] * streams
    assert {d.source for d in found} == {1}
    epochs, samples = {d.epoch for d in found}, sum(rare)
    if order.is_dealt(order.strata[number]):
        assert epochs == {(period * streams + k) // samples for k in range(streams)}
    else:
        sizes = [
            high - low
            for low, high in (order.bounds(order.strata[number], k) for k in range(streams))
        ]
        assert epochs == {period // size for size in sizes}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_of_a_mixture_are_the_same_for_workers_and_ranks(
    tmp_path: Path, specs: dict[str, dict[str, Any]]
) -> None:
    """With the real pipeline: a source of all modalities, and rare ones that lack some."""
    kinds = {
        "whole": ("audio+image+text",),
        "pictures": ("image",),
        "spoken": ("audio+text", "text"),
    }
    paths = {
        name: str(
            write_set(
                tmp_path / name,
                tri_modal_shards(sets, size=3 if sets[0] != kinds["whole"][0] else 24),
            )
        )
        for name, sets in kinds.items()
    }
    weights = {"whole": 8, "pictures": 1, "spoken": 3}

    def batches(workers: int, rank: int = 0, world_size: int = 1) -> list[list[Any]]:
        config = {
            "sources": {name: {"path": paths[name], "weight": weights[name]} for name in paths},
            "global_batch_size": 16,
            "streams": 4,
            "workers": workers,
            "allow_rare_strata": True,
            "transforms": {"image": {"type": "image", "crop_scale": [0.5, 1.0]}},
        }
        pipeline = Pipeline(
            from_dict(DataConfig, config),
            specs,
            seed=1,
            rank=rank,
            world_size=world_size,
            micro_batch_size=4,
        )
        return steps_of(pipeline, 6)

    alone = batches(0)
    for workers in (1, 2, 3, 4):
        assert_same(alone, batches(workers))
    for world_size in (2, 4):
        ranks = [batches(0, rank, world_size) for rank in range(world_size)]
        for step, whole in enumerate(alone):
            parts = [batch for rank in ranks for batch in rank[step]]
            assert_same(by_identity(whole), by_identity(parts))
