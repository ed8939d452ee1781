"""Shards at URLs brought into the cache before they are needed.

    with Prefetcher(order, streams=[0, 2], connections=4) as ahead:
        ahead.advance(step)  # before each step

Which shards a stream reads from is a pure function of the step (`Order.block`), so threads of the
rank's process fetch those of the block that each stream is in and of the one after it, and no more.
`check_cache` says at the start whether the cache can hold so many.
"""

from __future__ import annotations

import itertools
import logging
import os
import queue
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmfm.config import ConfigError
from mmfm.data.order import Order
from mmfm.data.remote.cache import GB, CacheConfig
from mmfm.data.remote.fetch import StoppedError

logger = logging.getLogger(__name__)

BLOCKS = 2
"""Blocks of each stream that are in the cache: the one that is read and the next."""
_INDEX_BYTES = 64
"""Of an index, for each sample."""
_JOIN_S = 5.0


class _Wanted(NamedTuple):
    stratum: int
    stream: int
    shard: int
    until: int
    """The stratum's draw of that stream from which on the shard is not wanted any more."""


class Prefetcher:
    """Fetches for `streams`, the rank's own, with `connections` threads."""

    def __init__(self, order: Order, streams: Sequence[int], connections: int) -> None:
        self.order = order
        self._watched = [
            (number, stream)
            for number, stratum in enumerate(order.strata)
            if stratum.manifest.remote is not None
            for stream in streams
        ]
        self._until = dict.fromkeys(self._watched, 0)
        self._held: dict[tuple[int, int], set[tuple[int, int]]] = {}
        """(source, shard) of the blocks of each watched (stratum, stream)."""
        self._step = 0
        self._queue: queue.SimpleQueue[_Wanted | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name=f"prefetch-{i}", daemon=True)
            for i in range(connections if self._watched else 0)
        ]

    def __enter__(self) -> Prefetcher:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._stop.set()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(_JOIN_S)

    def advance(self, step: int) -> None:
        """Hear that `step` is next: what its blocks and those after them need is fetched, and what
        they don't need any more is the first to leave the cache.
        """
        self._step = step
        begun = [w for w in self._watched if self._draws(*w) >= self._until[w]]
        before = {shard for watched in begun for shard in self._held.get(watched, ())}
        blocks = [self._blocks(*watched) for watched in begun]
        for source, shard in before.difference(*self._held.values()):
            remote = self.order.sources[source][1].remote
            assert remote is not None
            remote.release(shard)
        for wanted in itertools.chain.from_iterable(itertools.zip_longest(*blocks)):
            if wanted is not None:  # one shard of each stream in turn
                self._queue.put(wanted)

    def _draws(self, stratum: int, stream: int) -> int:
        """The draws of a stream before the step; they are the same for every stream."""
        return self.order.round_robin.draws_before(stratum, self._step * self.order.slots)

    def _blocks(self, stratum: int, stream: int) -> list[_Wanted]:
        """The shards of the block that the stream is in, then those of the next."""
        blocks = _ahead(self.order, stratum, stream, self._draws(stratum, stream))
        found = [_Wanted(stratum, stream, shard, end) for shards, end in blocks for shard in shards]
        self._until[stratum, stream] = blocks[0][1]
        source = self.order.strata[stratum].source
        self._held[stratum, stream] = {(source, wanted.shard) for wanted in found}
        return found

    def _work(self) -> None:
        while (wanted := self._queue.get()) is not None and not self._stop.is_set():
            if self._draws(wanted.stratum, wanted.stream) >= wanted.until:
                continue
            try:
                self.order.strata[wanted.stratum].manifest.prefetch(wanted.shard, self._stop)
            except StoppedError:
                return
            except ValueError as error:  # it ends the run where the shard is read, if it must
                logger.warning("not fetched ahead: %s", error)


def _ahead(order: Order, stratum: int, stream: int, draw: int) -> list[tuple[list[int], int]]:
    """The shards of the block of a draw and of those after it, each with the draw that ends it."""
    blocks = []
    for _ in range(BLOCKS):
        shards, draw = order.block(stratum, stream, draw)
        blocks.append((shards, draw))
    return blocks


def check_cache(order: Order, cache: CacheConfig, world_size: int) -> None:
    """ConfigError where `cache` can't hold what the streams of a node read and fetch at once."""
    streams = order.streams * local_ranks(world_size) // world_size
    parts, need = [], 0
    for number, stratum in enumerate(order.strata):
        if stratum.manifest.remote is None:
            continue
        shards = [stratum.manifest.shards[number] for number in stratum.shards]
        sizes = np.array([s.bytes + _INDEX_BYTES * s.samples for s in shards], np.int64)
        # No two blocks of a stream have more shards than its first two.
        most = max(
            len({shard for shards, _ in _ahead(order, number, stream, 0) for shard in shards})
            for stream in range(order.streams)
        )
        count = min(len(sizes), streams * most)
        held = int(np.sort(sizes)[-count:].sum())
        need += held
        parts.append(
            f"{stratum.source_name}:{stratum.modality_set} {count} shards, {held / GB:.3g} GB"
        )
    if need > cache.max_bytes:
        raise ConfigError(
            f"data.cache.max_gb = {cache.max_gb:g} is too small: the {streams} streams of this node"
            f" read {order.block_shards} shards each and fetch the next {order.block_shards}, of"
            f" every stratum ({'; '.join(parts)}), together {need / GB:.3g} GB. Raise"
            " data.cache.max_gb, or for a new run choose fewer data.block_shards or fewer"
            " data.streams"
        )


def local_ranks(world_size: int) -> int:
    """The ranks of this node: what the launcher says, else all."""
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        if os.environ.get(name, "").isdecimal():
            return max(1, min(int(os.environ[name]), world_size))
    return world_size
