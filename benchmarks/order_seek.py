"""How long the data order takes to build and to seek, and what it holds in memory.

    python benchmarks/order_seek.py [--samples 1000000000] [--shards 100000] [--streams 64]

Two mixtures: one source, and the same beside a source of 100,000 samples (weight 1 %), one of 300,
fewer than 8 for each stream (1 in 1,000), and one of 20 that comes once in 10,000 slots. The shards
are made up: pure ones need no file and no index.

A seek is all draws of a step that is reached in an order that was never used before, anywhere in
the first three epochs, so it includes shuffling the shards of the streams' parts. Of the mixture
half the steps are those in which the rarest source comes.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
import tracemalloc
from itertools import pairwise

from mmfm.data.manifest import Manifest
from mmfm.data.order import Order
from mmfm.data.shard import Shard

Source = tuple[str, Manifest, float]
PERIOD, DRAWS = 10_000, 20_000


def made_up(samples: int, shards: int, modality_set: str = "image+text") -> Manifest:
    ends = [samples * i // shards for i in range(shards + 1)]
    counts = [end - start for start, end in pairwise(ends)]
    return Manifest(
        [
            Shard(f"{i:06d}.tar", "/made-up", 1 << 30, f"{i:064x}", n, {modality_set: n})
            for i, n in enumerate(counts)
        ]
    )


def timed(order: Order, step: int, streams: int) -> float:
    """Milliseconds to draw what the first `streams` streams have in `step`."""
    start = time.perf_counter()
    for stream in range(streams):
        order.stream_slots(step, stream)
    return 1e3 * (time.perf_counter() - start)


def measure(name: str, sources: list[Source], streams: int, seeks: int) -> None:
    def build() -> Order:
        """One slot of each stream a step, so that a step is a seek and nothing else."""
        return Order(sources, 1, streams, streams, allow_rare_strata=True)

    start = time.perf_counter()
    order = build()
    built = time.perf_counter() - start
    start = time.perf_counter()
    fingerprint = order.fingerprint
    hashed = time.perf_counter() - start

    samples, shards = (sum(n) for n in zip(*map(size, sources), strict=True))
    random.seed(0)
    steps = random.sample(range(3 * samples // streams), seeks)
    rarest = len(order.strata) - 1
    if rarest:
        slots = (t for t in range(order.round_robin.period) if order.round_robin.at(t)[0] == rarest)
        slot = next(slots)
        steps[::2] = [step // PERIOD * PERIOD + slot for step in steps[::2]]
    one = [timed(build(), step, 1) for step in steps]
    every = [timed(build(), step, streams) for step in steps]
    drawn = sum(timed(order, step, streams) for step in range(100)) / (100 * streams)

    tracemalloc.start()
    order = build()
    held = tracemalloc.get_traced_memory()[0]
    for step in range(DRAWS // streams):
        order.rank_draws(step, 0, 1)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    print(f"{name}: {samples:,} samples in {shards:,} shards, {streams} streams")
    print(f"  build              {built:9.3f} s")
    print(f"  fingerprint        {hashed:9.3f} s   {fingerprint[:16]}…")
    print(f"  seek, one stream   {statistics.median(one):9.2f} ms  worst {max(one):.2f}")
    print(f"  seek, all streams  {statistics.median(every):9.2f} ms  worst {max(every):.2f}")
    print(f"  a draw after it    {1e3 * drawn:9.1f} µs")
    print(f"  memory, built      {held / 2**20:9.2f} MiB beside the manifest")
    print(f"  memory, in use     {used / 2**20:9.2f} MiB after {DRAWS:,} draws")


def size(source: Source) -> tuple[int, int]:
    """The samples and the shards of a source."""
    shards = source[1].shards
    return sum(shard.samples for shard in shards), len(shards)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--samples", type=int, default=10**9)
    parser.add_argument("--shards", type=int, default=10**5)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seeks", type=int, default=20)
    arguments = parser.parse_args()
    others: list[Source] = [
        ("small", made_up(100_000, 100, "audio+text"), 100),
        ("few", made_up(300, 7, "audio"), 10),
        ("rarest", made_up(20, 3, "text"), 1),
    ]
    for name, more in (("one source", []), ("a mixture", others)):
        big = made_up(arguments.samples, arguments.shards)
        sources = [("big", big, PERIOD - 111.0), *more]
        measure(name, sources, arguments.streams, arguments.seeks)


if __name__ == "__main__":
    main()
