"""The order of the data: which sample stands in which place of which step, as a pure function.

``order = Order([("art", manifest, 1.0)], seed=1, streams=8, global_batch_size=32)`` and then
``order.rank_draws(step, rank, world_size)`` for any step, without replaying the ones before it. A
run has a fixed number N of canonical streams; every stream walks the same slots of one weighted
round robin over the strata, and rank r of W serves the streams r, r+W, …, so the global batch of a
step is the same for every W that divides N. docs/data-order.md explains it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mmfm.config import ConfigError
from mmfm.data.lru import Lru
from mmfm.data.manifest import Manifest
from mmfm.data.permutation import hash_ints, permute, shuffle
from mmfm.data.schedule import RoundRobin
from mmfm.data.strata import Stratum, build_strata

ALGORITHM = 1
"""Part of the fingerprint: another number is another order of the same data."""
DEALT_BELOW = 8
"""A stratum with fewer samples than this for each stream is dealt, not cut."""
_DEAL, _SHARDS, _BLOCK, _DRAW = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample in one place.

    `index`: in the shard; `position`: its number among the draws of its stratum and stream;
    `seed`: non-negative and below 2^63, from the run's seed, the sample, its epoch and position.
    """

    source: int
    shard: int
    index: int
    epoch: int
    stratum: int
    stream: int
    position: int
    seed: int


@dataclass(frozen=True)
class StratumShare:
    """What a stratum gets of the training: see `Order.composition`."""

    source: str
    modality_set: str
    samples: int
    weight: int
    period: int
    per_step: float
    every_steps: float
    epochs_per_1000_steps: float
    dealt: bool


@dataclass(frozen=True, eq=False)
class _Part:
    """One stream's share of a stratum in one epoch: pieces of shards in shuffled order.

    `starts`: the stratum's sample at which each piece starts; `ends`: samples of the part up to the
    end of each piece.
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


class Order:
    """The order of a run, a pure function of its arguments.

    `sources`: (name, manifest, weight; None = its sample count). `streams`: N. `block_shards`: the
    shards among which samples are mixed. Memory: that of the strata (16 bytes a shard) and at most
    16 bytes for each piece of a shard for two epochs of each part in use, so 48 bytes a shard.
    `ConfigError` where N doesn't divide the global batch, a source is empty, or a stream has fewer
    slots in a step than there are strata (unless `allow_rare_strata`).
    """

    def __init__(
        self,
        sources: Sequence[tuple[str, Manifest, float | int | None]],
        seed: int,
        streams: int,
        global_batch_size: int,
        block_shards: int = 16,
        allow_rare_strata: bool = False,
    ) -> None:
        for name, value in (
            ("streams", streams),
            ("global_batch_size", global_batch_size),
            ("block_shards", block_shards),
        ):
            if value < 1:
                raise ConfigError(f"data.{name} = {value}: a positive number is needed")
        if global_batch_size % streams:
            below = global_batch_size - global_batch_size % streams
            near = f"{below} or {below + streams}" if below else f"{streams}"
            raise ConfigError(
                f"data.streams = {streams} does not divide data.global_batch_size ="
                f" {global_batch_size} ({global_batch_size} = {global_batch_size // streams} ·"
                f" {streams} + {global_batch_size % streams}): use a batch of {near}"
            )
        if not sources:
            raise ConfigError("data.sources is empty: name at least one source")
        self.sources = list(sources)
        self.seed = seed
        self.streams = streams
        self.global_batch_size = global_batch_size
        self.block_shards = block_shards
        self.slots = global_batch_size // streams
        self.strata, self.ignored = build_strata(self.sources)
        if self.slots < len(self.strata) and not allow_rare_strata:
            names = ", ".join(f"{s.source_name}:{s.modality_set}" for s in self.strata)
            raise ConfigError(
                f"{len(self.strata)} strata ({names}), but a stream has only global_batch_size /"
                f" streams = {global_batch_size} / {streams} = {self.slots} slots a step: use a"
                f" batch of at least {len(self.strata) * streams} or at most"
                f" {max(1, global_batch_size // len(self.strata))} streams, or set"
                " data.allow_rare_strata to let some strata come only every few steps"
            )
        self.round_robin = RoundRobin([s.weight for s in self.strata])
        self._parts: Lru[_Part] = Lru(2 * streams * len(self.strata))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over all that the order depends on; equal fingerprints mean equal orders."""
        told = {
            "algorithm": ALGORITHM,
            "manifests": [manifest.digest() for _, manifest, _ in self.sources],
            "weights": [[s.source, s.modality_set, s.weight] for s in self.strata],
            "seed": self.seed,
            "streams": self.streams,
            "global_batch_size": self.global_batch_size,
            "block_shards": self.block_shards,
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def composition(self) -> list[StratumShare]:
        """What each stratum gets: for the plan that a dry run prints.

        `weight` of `period` slots are its own; `per_step`: samples expected in a global batch;
        `every_steps`: it comes every so many steps on average, 1 where it comes in each.
        """
        period, shares = self.round_robin.period, []
        for s in self.strata:
            per_step = self.global_batch_size * s.weight / period
            shares.append(
                StratumShare(
                    source=s.source_name,
                    modality_set=s.modality_set,
                    samples=s.samples,
                    weight=s.weight,
                    period=period,
                    per_step=per_step,
                    every_steps=max(1.0, period / (s.weight * self.slots)),
                    epochs_per_1000_steps=1000 * per_step / s.samples,
                    dealt=self.is_dealt(s),
                )
            )
        return shares

    def check_world_size(self, world_size: int) -> None:
        """`ConfigError` where the ranks can't share the streams evenly."""
        if world_size < 1 or self.streams % world_size:
            valid = [w for w in range(1, self.streams + 1) if self.streams % w == 0]
            raise ConfigError(
                f"{world_size} ranks do not divide data.streams = {self.streams} ({self.streams} /"
                f" {world_size} = {self.streams / max(1, world_size):.2f} streams a rank): run on"
                f" one of {valid} ranks, or choose other streams for a new run"
            )

    def rank_draws(self, step: int, rank: int, world_size: int) -> list[Draw]:
        """What rank `rank` of `world_size` reads in `step`: its streams, one after the other."""
        self.check_world_size(world_size)
        assert 0 <= rank < world_size, (rank, world_size)
        mine = range(rank, self.streams, world_size)
        return [draw for stream in mine for draw in self.stream_slots(step, stream)]

    def stream_slots(self, step: int, stream: int) -> list[Draw]:
        """The draws of one stream in one step, slot by slot."""
        assert 0 <= stream < self.streams, stream
        slots = range(step * self.slots, (step + 1) * self.slots)
        return [self._draw(stratum, stream, p) for stratum, p in map(self.round_robin.at, slots)]

    def replacement(self, draw: Draw, attempt: int) -> Draw:
        """Candidate `attempt` (0, 1, …) for the place of a bad sample, with the place's own seed.

        Candidates follow each other from half a block ahead in the same stratum and stream.
        `ValueError` after two epochs of them: no sample of the stream's part is good.
        """
        stratum = self.strata[draw.stratum]
        samples = stratum.samples
        if self.is_dealt(stratum):
            ahead = samples // (2 * self.streams)
        else:
            low, samples = self.bounds(stratum, draw.stream)
            samples -= low
            pieces = stratum.ends.searchsorted([low, low + samples - 1], side="right")
            ahead = min(samples, samples * self.block_shards // int(pieces[1] - pieces[0] + 1)) // 2
        if attempt >= 2 * samples:
            raise ValueError(
                f"data.sources.{stratum.source_name}: none of {attempt} candidates could take the"
                f" place of a bad sample in {stratum.modality_set!r}, stream {draw.stream}: all"
                f" {samples} samples there seem to be bad"
            )
        found = self._draw(draw.stratum, draw.stream, draw.position + max(1, ahead) + attempt)
        return dataclasses.replace(found, seed=draw.seed)

    def block(self, number: int, stream: int, position: int) -> tuple[list[int], int]:
        """The shards among which draw `position` of stratum `number` is mixed, and the first
        position after them; of a dealt stratum all, and the position an epoch's draws ahead.
        """
        stratum = self.strata[number]
        if self.is_dealt(stratum):
            return stratum.shards.tolist(), position + -(-stratum.samples // self.streams)
        low, high = self.bounds(stratum, stream)
        epoch, at = divmod(position, high - low)
        part = self._part(number, stream, epoch)
        first, last = self._block_at(part, at)
        shards = stratum.ends.searchsorted(part.starts[first : last + 1], side="right")
        return stratum.shards[shards].tolist(), epoch * (high - low) + int(part.ends[last])

    def is_dealt(self, stratum: Stratum) -> bool:
        """Whether all streams draw from the whole stratum in turn, instead of each from a part."""
        return stratum.samples < DEALT_BELOW * self.streams

    def bounds(self, stratum: Stratum, stream: int) -> tuple[int, int]:
        """The samples of a cut stratum from which a stream draws: sizes differ by one at most."""
        n, streams = stratum.samples, self.streams
        return stream * n // streams, (stream + 1) * n // streams

    def _draw(self, number: int, stream: int, position: int) -> Draw:
        stratum = self.strata[number]
        if self.is_dealt(stratum):
            epoch, at = divmod(position * self.streams + stream, stratum.samples)
            item = permute(hash_ints(self.seed, _DEAL, number, epoch), stratum.samples, at)
        else:
            low, high = self.bounds(stratum, stream)
            epoch, at = divmod(position, high - low)
            item = self._item(number, stream, epoch, at)
        shard, index = stratum.locate(item)
        seed = hash_ints(self.seed, _DRAW, stratum.source, shard, index, epoch, position) >> 1
        return Draw(stratum.source, shard, index, epoch, number, stream, position, seed)

    def _item(self, number: int, stream: int, epoch: int, at: int) -> int:
        """The stratum's sample that place `at` of an epoch of a stream's part holds."""
        part = self._part(number, stream, epoch)
        first, last = self._block_at(part, at)
        start, end = int(part.ends[first - 1]) if first else 0, int(part.ends[last])
        key = hash_ints(self.seed, _BLOCK, number, stream, epoch, first // self.block_shards)
        place = start + permute(key, end - start, at - start)
        piece = int(part.ends.searchsorted(place, side="right"))
        return int(part.starts[piece]) + place - (int(part.ends[piece - 1]) if piece else 0)

    def _block_at(self, part: _Part, at: int) -> tuple[int, int]:
        """The first and the last piece of the block of place `at`."""
        block = int(part.ends.searchsorted(at, side="right")) // self.block_shards
        first = block * self.block_shards
        return first, min(first + self.block_shards, len(part.ends)) - 1

    def _part(self, number: int, stream: int, epoch: int) -> _Part:
        return self._parts.get(
            (number, stream, epoch), lambda: self._shuffled_part(number, stream, epoch)
        )

    def _shuffled_part(self, number: int, stream: int, epoch: int) -> _Part:
        stratum = self.strata[number]
        low, high = self.bounds(stratum, stream)
        first = int(stratum.ends.searchsorted(low, side="right"))
        last = int(stratum.ends.searchsorted(high - 1, side="right"))
        ends = np.minimum(stratum.ends[first : last + 1], high)
        starts = np.concatenate([[low], ends[:-1]])
        shuffled = shuffle(hash_ints(self.seed, _SHARDS, number, stream, epoch), len(ends))
        return _Part(starts[shuffled], np.cumsum((ends - starts)[shuffled]))
