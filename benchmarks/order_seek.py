"""How long the data order takes to build and to seek, and what it holds in memory.

    python benchmarks/order_seek.py [--samples 1000000000] [--shards 100000] [--streams 64]

The shards are made up: pure ones need no file and no index. A seek is the first sample of a step
that is reached in an order that was never used before, anywhere in the first three epochs, so it
includes shuffling the shards of the stream's part. Medians over the seeks are printed, for one
stream and for all of them as on a single rank, and the worst of the latter.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
import tracemalloc
from itertools import pairwise

from mmfm.data.manifest import Manifest, Shard
from mmfm.data.order import Order


def made_up(samples: int, shards: int) -> Manifest:
    ends = [samples * i // shards for i in range(shards + 1)]
    counts = [end - start for start, end in pairwise(ends)]
    return Manifest(
        [
            Shard(f"{i:06d}.tar", "/made-up", 1 << 30, f"{i:064x}", n, {"image+text": n})
            for i, n in enumerate(counts)
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--samples", type=int, default=10**9)
    parser.add_argument("--shards", type=int, default=10**5)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seeks", type=int, default=20)
    arguments = parser.parse_args()
    streams = arguments.streams
    manifest = made_up(arguments.samples, arguments.shards)

    def build() -> Order:
        """One slot of each stream a step, so that a step is a seek and nothing else."""
        return Order([("made-up", manifest, None)], 1, streams, global_batch_size=streams)

    start = time.perf_counter()
    order = build()
    built = time.perf_counter() - start
    start = time.perf_counter()
    fingerprint = order.fingerprint
    hashed = time.perf_counter() - start

    random.seed(0)
    one, every = [], []
    for step in random.sample(range(3 * arguments.samples // streams), arguments.seeks):
        order = build()
        start = time.perf_counter()
        order.stream_slots(step, 0)
        one.append(time.perf_counter() - start)
        order = build()
        start = time.perf_counter()
        order.rank_draws(step, 0, 1)
        every.append(time.perf_counter() - start)
    start = time.perf_counter()
    for step in range(100):
        order.rank_draws(step, 0, 1)
    drawn = (time.perf_counter() - start) / (100 * streams)

    tracemalloc.start()
    order = build()
    held = tracemalloc.get_traced_memory()[0]
    order.rank_draws(0, 0, 1)
    used = tracemalloc.get_traced_memory()[0]
    print(f"{arguments.samples:,} samples in {arguments.shards:,} shards, {streams} streams")
    print(f"build              {built:9.3f} s")
    print(f"fingerprint        {hashed:9.3f} s   {fingerprint[:16]}…")
    print(f"seek, one stream   {1e3 * statistics.median(one):9.2f} ms")
    print(
        f"seek, all streams  {1e3 * statistics.median(every):9.2f} ms  worst {1e3 * max(every):.2f}"
    )
    print(f"a draw after it    {1e6 * drawn:9.1f} µs")
    print(f"memory, built      {held / 2**20:9.2f} MiB beside the manifest")
    print(f"memory, in use     {used / 2**20:9.2f} MiB with one epoch of every part")


if __name__ == "__main__":
    main()
