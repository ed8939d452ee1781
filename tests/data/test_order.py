"""The order of the data: once an epoch, the same for every world size, sought in no time."""

from __future__ import annotations

import hashlib
import itertools
import math
import pickle
import time
from collections import Counter, defaultdict
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfm.config import ConfigError
from mmfm.data.manifest import Manifest
from mmfm.data.order import DEALT_BELOW, Draw, Order
from mmfm.data.permutation import hash_ints, permute, shuffle
from mmfm.data.schedule import MAX_DENOMINATOR, RoundRobin, quantise
from mmfm.data.shard import Shard


def made_up(counts: list[int], modality_set: str = "image+text", sha: str = "0") -> Manifest:
    """Shards that exist nowhere: pure ones need only their count."""
    return Manifest(
        [
            Shard(f"{i}.tar", "/nowhere", 512 * n, sha, n, {modality_set: n})
            for i, n in enumerate(counts)
        ]
    )


def walk(order: Order, stratum: int, stream: int, draws: int, start: int = 0) -> list[Draw]:
    """Consecutive draws of one stratum and stream, by the public interface."""
    found: list[Draw] = []
    for step in itertools.count():
        found += [d for d in order.stream_slots(step, stream) if d.stratum == stratum]
        if len(found) >= start + draws:
            return found[start : start + draws]
    raise AssertionError


def place(draw: Draw) -> tuple[int, int, int]:
    return draw.source, draw.shard, draw.index


shard_counts = st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(lambda c: sum(c) > 0)
seeds = st.integers(-(2**40), 2**70)


@settings(max_examples=60, deadline=None)
@given(shard_counts, seeds, st.integers(1, 6), st.integers(1, 5))
def test_every_sample_once_an_epoch(
    counts: list[int], seed: int, streams: int, block_shards: int
) -> None:
    order = Order([("a", made_up(counts), None)], seed, streams, streams * 4, block_shards)
    n = sum(counts)
    everything = {(0, s, i) for s, c in enumerate(counts) for i in range(c)}
    if n < DEALT_BELOW * streams:
        # Dealt: one epoch after the other over all streams together.
        draws = [d for k in range(streams) for d in walk(order, 0, k, 3 * n)]
        by_epoch: dict[int, list[Draw]] = defaultdict(list)
        for d in draws:
            by_epoch[d.epoch].append(d)
        for epoch in range(3 if streams == 1 else 2):
            assert Counter(map(place, by_epoch[epoch])) == Counter(everything)
            assert {d.position * streams + d.stream for d in by_epoch[epoch]} == set(
                range(epoch * n, (epoch + 1) * n)
            )
        return
    parts = []
    for stream in range(streams):
        size = (stream + 1) * n // streams - stream * n // streams
        draws = walk(order, 0, stream, 2 * size)
        assert [d.epoch for d in draws] == [0] * size + [1] * size
        assert [d.position for d in draws] == list(range(2 * size))
        first, second = Counter(map(place, draws[:size])), Counter(map(place, draws[size:]))
        assert first == second
        assert max(first.values()) == 1
        parts.append(set(first))
    # The parts are disjoint, complete and differ by one at most.
    assert set.union(*parts) == everything
    assert sum(map(len, parts)) == n
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_epochs_and_streams_are_shuffled_differently() -> None:
    order = Order([("a", made_up([500] * 8), None)], seed=3, streams=2, global_batch_size=8)
    first, second = ([place(d) for d in walk(order, 0, 0, 2000, start)] for start in (0, 2000))
    assert set(first) == set(second)
    agree = sum(a == b for a, b in zip(first, second, strict=True))
    assert agree < 20  # about 1 is expected
    other = Order([("a", made_up([500] * 8), None)], seed=4, streams=2, global_batch_size=8)
    assert sum(a == place(b) for a, b in zip(first, walk(other, 0, 0, 2000), strict=True)) < 20


def test_samples_are_mixed_within_blocks_of_shards_only() -> None:
    order = Order(
        [("a", made_up([50] * 12), None)], seed=0, streams=1, global_batch_size=8, block_shards=4
    )
    shards = [d.shard for d in walk(order, 0, 0, 600)]
    blocks = [set(shards[i : i + 200]) for i in (0, 200, 400)]
    assert [len(b) for b in blocks] == [4, 4, 4]
    assert set.union(*blocks) == set(range(12))
    assert len(set(shards[:20])) > 1  # not one shard after the other
    later = [d.shard for d in walk(order, 0, 0, 200, start=600)]
    assert set(later) != blocks[0]  # the next epoch mixes other shards


SOURCES = [
    ("a", made_up([40, 33, 27]), 2.0),
    (
        "b",
        Manifest(
            [
                Shard("p.tar", "/nowhere", 1, "1", 30, {"audio": 30}),
                Shard("q.tar", "/nowhere", 1, "2", 90, {"audio+text": 90}),
            ]
        ),
        1,
    ),
]


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(0, 10**9))
def test_a_global_batch_is_the_same_for_every_world_size(seed: int, step: int) -> None:
    order = Order(SOURCES, seed, streams=12, global_batch_size=48)
    whole = Counter(order.rank_draws(step, 0, 1))
    assert sum(whole.values()) == 48
    for world_size in (2, 3, 4, 6, 12):
        ranks = [order.rank_draws(step, r, world_size) for r in range(world_size)]
        assert Counter(itertools.chain(*ranks)) == whole
        compositions = [[d.stratum for d in rank] for rank in ranks]
        assert all(c == compositions[0] for c in compositions)
        streams = [d.stream for d in ranks[1]]
        assert streams == sorted(streams)
        assert set(streams) == set(range(1, 12, world_size))


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(0, 10**6))
def test_all_streams_have_the_same_strata_slot_by_slot(seed: int, step: int) -> None:
    order = Order(SOURCES, seed, streams=6, global_batch_size=30)
    slots = [[(d.stratum, d.position) for d in order.stream_slots(step, k)] for k in range(6)]
    assert all(s == slots[0] for s in slots)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 40))
def test_a_seek_equals_the_walk(seed: int, steps: int) -> None:
    walked = Order(SOURCES, seed, streams=4, global_batch_size=16)
    for step in range(steps):
        walked.rank_draws(step, 0, 1)
    sought = Order(SOURCES, seed, streams=4, global_batch_size=16)
    assert sought.rank_draws(steps, 0, 1) == walked.rank_draws(steps, 0, 1)
    sent = pickle.loads(pickle.dumps(walked))  # as to a spawned worker
    assert sent.rank_draws(steps, 0, 2) == walked.rank_draws(steps, 0, 2)
    assert sent.fingerprint == walked.fingerprint


weights_lists = st.lists(st.integers(1, 300), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(weights_lists, st.integers(0, 10**7))
def test_round_robin_keeps_weights_exactly_and_evenly(weights: list[int], slot: int) -> None:
    robin = RoundRobin(weights)
    period = sum(weights)
    start = slot * period
    counts = Counter(robin.at(t)[0] for t in range(start, start + period))
    assert [counts[s] for s in range(len(weights))] == weights
    stratum, before = robin.at(slot)
    assert before == robin.draws_before(stratum, slot)
    assert sum(robin.draws_before(s, slot) for s in range(len(weights))) == slot
    assert robin.draws_before(stratum, slot + 1) == before + 1
    # Never far from its share: less than one draw a stratum.
    share = Fraction(weights[stratum], period)
    assert abs(robin.draws_before(stratum, slot) - slot * share) < len(weights)


def test_round_robin_is_smooth() -> None:
    robin = RoundRobin([5, 1, 1])
    assert "".join("abc"[robin.at(t)[0]] for t in range(14)) == "aabacaa" * 2
    assert [robin.at(t)[1] for t in (0, 1, 3, 6, 7)] == [0, 1, 2, 4, 5]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.fractions(min_value=Fraction(1, 10**6), max_value=10**6), min_size=1, max_size=30)
)
def test_quantised_weights_are_near_the_shares(shares: list[Fraction]) -> None:
    weights = quantise(shares)
    total = sum(shares)
    assert min(weights) >= 1
    assert sum(weights) <= MAX_DENOMINATOR
    exact = math.lcm(*((s / total).denominator for s in shares)) <= MAX_DENOMINATOR
    for share, weight in zip(shares, weights, strict=True):
        off = Fraction(weight, sum(weights)) - share / total
        if exact:
            assert off == 0
        else:
            # What the strata below 1 in 10,000 are given is taken from others.
            assert abs(off) <= Fraction(len(shares), MAX_DENOMINATOR)


def test_a_weight_of_one_in_ten_thousand_is_kept() -> None:
    sources = [("a", made_up([900]), 9999), ("b", made_up([5]), 1)]
    with pytest.raises(ConfigError, match="2 strata"):
        Order(sources, 0, streams=4, global_batch_size=4)
    order = Order(sources, 0, streams=4, global_batch_size=4, allow_rare_strata=True)
    seen = Counter(order.stream_slots(step, 1)[0].stratum for step in range(20_000))
    assert seen == {0: 19_998, 1: 2}
    rare = order.composition()[1]
    assert (rare.weight, rare.period, rare.every_steps) == (1, 10_000, 10_000)
    assert rare.per_step == pytest.approx(4e-4, rel=1e-12)
    assert rare.epochs_per_1000_steps == pytest.approx(0.4 / 5, rel=1e-12)
    assert rare.dealt


def test_composition_divides_a_sources_weight_by_size() -> None:
    order = Order(SOURCES, 0, streams=4, global_batch_size=48)
    rows = [(r.source, r.modality_set, r.samples, r.weight, r.period) for r in order.composition()]
    assert rows == [
        ("a", "image+text", 100, 8, 12),
        ("b", "audio", 30, 1, 12),
        ("b", "audio+text", 90, 3, 12),
    ]
    assert [r.per_step for r in order.composition()] == [32, 4, 12]
    assert [r.every_steps for r in order.composition()] == [1, 1, 1]
    drawn = Counter(d.stratum for d in order.rank_draws(5, 0, 1))
    assert drawn == {0: 32, 1: 4, 2: 12}


def test_without_weights_samples_count_alike() -> None:
    order = Order([("a", made_up([30]), None), ("b", made_up([10]), None)], 0, 2, 8)
    assert [s.weight for s in order.strata] == [3, 1]


@settings(max_examples=40, deadline=None)
@given(shard_counts, st.integers(1, 5), st.integers(0, 40), st.integers(1, 4))
def test_replacements_stay_in_stratum_and_stream(
    counts: list[int], streams: int, step: int, block_shards: int
) -> None:
    sources = [("a", made_up(counts), None), ("b", made_up([9, 9], "text"), None)]
    order = Order(sources, 1, streams, streams * 4, block_shards)
    for draw in order.stream_slots(step, streams - 1)[:2]:
        # Two epochs of a part that holds one sample are two candidates.
        attempts = min(4, 2 * order.strata[draw.stratum].samples)
        candidates = [order.replacement(draw, attempt) for attempt in range(attempts)]
        ahead = candidates[0].position - draw.position
        assert ahead >= 1
        for attempt, new in enumerate(candidates):
            assert (new.stratum, new.stream, new.seed) == (draw.stratum, draw.stream, draw.seed)
            assert new.position == draw.position + ahead + attempt
            there = walk(order, draw.stratum, draw.stream, 1, start=new.position)[0]
            assert place(new) == place(there)
            assert new.epoch == there.epoch


def test_replacements_come_from_half_a_block_ahead_and_end() -> None:
    order = Order([("a", made_up([50] * 16), None)], 1, 2, 8, block_shards=4)
    draw = order.stream_slots(0, 1)[0]
    assert order.replacement(draw, 0).position == draw.position + 100  # of 4 shards of 50
    part = {place(order.replacement(draw, a)) for a in range(800)}
    assert len(part) == 400
    with pytest.raises(ValueError, match="all 400 samples there seem to be bad"):
        order.replacement(draw, 800)


def test_a_part_of_one_sample_has_two_candidates() -> None:
    order = Order([("a", made_up([1]), None)], 1, 1, 4)
    draw = order.stream_slots(7, 0)[0]
    assert [place(order.replacement(draw, a)) for a in range(2)] == [place(draw)] * 2
    with pytest.raises(ValueError, match="all 1 samples there seem to be bad"):
        order.replacement(draw, 2)


def test_seeds_belong_to_sample_epoch_and_run() -> None:
    order = Order([("a", made_up([40]), None)], 7, 2, 8)
    draws = [d for k in range(2) for d in walk(order, 0, k, 60)]
    assert len({d.seed for d in draws}) == 120
    assert all(0 <= d.seed < 2**63 for d in draws)
    again = Order([("a", made_up([40]), None)], 7, 2, 8)
    assert walk(again, 0, 0, 60) == draws[:60]
    other = Order([("a", made_up([40]), None)], 8, 2, 8)
    assert not {d.seed for d in draws} & {d.seed for d in walk(other, 0, 0, 60)}


def test_fingerprint_changes_with_each_ingredient() -> None:
    base = {"seed": 1, "streams": 4, "global_batch_size": 16, "block_shards": 8}
    counts = [10, 30]

    def fingerprint(sha: str = "0", weight: float = 1, **changed: int) -> str:
        sources = [("a", made_up(counts, sha=sha), weight), ("b", made_up([20]), 1)]
        return Order(sources, **(base | changed)).fingerprint

    prints = [
        fingerprint(),
        fingerprint(sha="1"),
        fingerprint(weight=2),
        fingerprint(seed=2),
        fingerprint(streams=2),
        fingerprint(global_batch_size=32),
        fingerprint(block_shards=4),
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint() == prints[0]


def test_the_order_never_changes_unnoticed() -> None:
    """Golden: if this changes, so must `ALGORITHM`, or a resumed run goes on in another order."""
    order = Order(SOURCES, seed=5, streams=4, global_batch_size=16)
    text = repr([(*place(d), d.epoch, d.seed) for d in order.rank_draws(1234, 1, 2)])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "7b57320906f1b57b"


def test_a_world_size_must_divide_the_streams() -> None:
    order = Order([("a", made_up([100]), None)], 0, streams=8, global_batch_size=16)
    with pytest.raises(
        ConfigError, match=r"3 ranks do not divide data.streams = 8 .* \[1, 2, 4, 8"
    ):
        order.rank_draws(0, 0, 3)


def test_streams_must_divide_the_batch() -> None:
    with pytest.raises(ConfigError, match=r"20 = 2 · 8 \+ 4\): use a batch of 16 or 24"):
        Order([("a", made_up([100]), None)], 0, streams=8, global_batch_size=20)


def test_an_empty_source_is_named() -> None:
    with pytest.raises(ConfigError, match=r"data\.sources\.b is empty: 2 shards"):
        Order([("a", made_up([10]), None), ("b", made_up([0, 0]), None)], 0, 1, 4)
    with pytest.raises(ConfigError, match=r"data\.sources\.b is empty: 1 shards"):
        Order([("a", made_up([10]), None), ("b", made_up([5], ""), None)], 0, 1, 4)


@pytest.mark.parametrize("weight", [0, -1.5, float("nan"), float("inf")])
def test_a_weight_must_be_positive(weight: float) -> None:
    with pytest.raises(ConfigError, match=r"data\.sources\.a\.weight"):
        Order([("a", made_up([10]), weight)], 0, 1, 4)


def test_samples_without_a_modality_are_told_not_drawn() -> None:
    shard = Shard("p.tar", "/nowhere", 1, "1", 30, {"": 5, "text": 25})
    order = Order([("a", Manifest([shard]), None)], 0, 1, 4)
    assert order.ignored == {"a": 5}
    assert [(s.modality_set, s.samples) for s in order.strata] == [("text", 25)]


def test_a_billion_samples_are_sought_at_once() -> None:
    """Loose bounds for a busy machine; benchmarks/order_seek.py measures."""
    one = made_up([10_000]).shards[0]
    manifest = Manifest([replace(one, name=f"{i}.tar") for i in range(100_000)])
    start = time.perf_counter()
    order = Order([("a", manifest, None)], 0, streams=64, global_batch_size=64)
    built = time.perf_counter()
    draws = order.rank_draws(10**7, 0, 1)
    sought = time.perf_counter()
    assert len({place(d) for d in draws}) == 64
    assert built - start < 1
    assert sought - built < 0.5


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 3000))
def test_permute_and_shuffle_are_permutations(key: int, n: int) -> None:
    assert sorted(shuffle(key, n).tolist()) == list(range(n))
    assert sorted(permute(key, n, i) for i in range(n)) == list(range(n))


@pytest.mark.parametrize("n", [7, 1500])
def test_permutations_are_uniform(n: int) -> None:
    """Where an element lands, and how far neighbours are apart, over many keys."""
    keys = [hash_ints(n, k) for k in range(4000)]
    first = np.array([permute(k, n, 0) for k in keys])
    second = np.array([permute(k, n, 1) for k in keys])
    bins = min(n, 10)
    for values in (first, second, (second - first) % n):
        nonzero = values is not first and values is not second
        counts = np.bincount(values * bins // n, minlength=bins).astype(float)
        sizes = np.bincount(np.arange(n) * bins // n, minlength=bins).astype(float)
        if nonzero:  # neighbours never coincide
            sizes[0] -= 1
        expected = 4000 * sizes / sizes.sum()
        keep = expected > 0
        chi2 = float((((counts - expected) ** 2)[keep] / expected[keep]).sum())
        assert chi2 < 33  # 9 degrees of freedom: one in 10,000
        assert counts[~keep].sum() == 0


def test_long_permutations_hide_the_halves_of_their_input() -> None:
    """Two rounds of a Feistel network would keep the difference of these two inputs."""
    keys = [hash_ints(k) for k in range(4000)]
    n, low_bits = 2048, 5
    differences = [(permute(k, n, 0) ^ permute(k, n, 1 << low_bits)) >> low_bits for k in keys]
    counts = np.bincount(differences, minlength=64).astype(float)
    assert float(((counts - 62.5) ** 2 / 62.5).sum()) < 120  # 63 degrees of freedom
