"""Hard negatives of the training samples: a table of which samples are near which, and the draws
from it.

    table = NegativeTable(Path("runs/mine/negatives.safetensors"))
    for sample in NegativeDraws(table, reader, decoder).of(decoded, draw, bad):
        ...  # to be told from `decoded`, which stands in the place `draw`

The table is a file that all workers read from (`mmfm.train.mining` makes it). What is drawn from it
is a function of the place's seed. How many are drawn, and which modalities they have, depends on
what the sample has alone, so all ranks have equally many.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mmfm.data.decode import Sample, SampleDecoder
from mmfm.data.manifest import Manifest
from mmfm.data.order import Draw
from mmfm.data.permutation import hash_ints
from mmfm.data.quarantine import BadRecord
from mmfm.data.reader import SampleReader
from mmfm.data.transforms.base import BadSample

MAX_STRANGERS = 1024
"""Samples looked at where none of the table's can be used."""
_CANDIDATE, _STRANGER, _DECODE = 1, 2, 3
_SETTINGS = "settings"


class Direction(NamedTuple):
    """For the `query` modalities of a sample, what is like their counterpart: the `key`
    modalities of others.
    """

    query: tuple[str, ...]
    key: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{'+'.join(self.query)} to {'+'.join(self.key)}"


class Numbers:
    """The samples of several sources (name, manifest) numbered, shard by shard."""

    def __init__(self, sources: Sequence[tuple[str, Manifest]]) -> None:
        sizes = [shard.samples for _, manifest in sources for shard in manifest.shards]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._places = [(s, i) for s, (_, m) in enumerate(sources) for i in range(len(m.shards))]
        self._shard_at = {place: i for i, place in enumerate(self._places)}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def number(self, source: int, shard: int, index: int) -> int:
        return int(self._starts[self._shard_at[source, shard]]) + index

    def place(self, number: int) -> tuple[int, int, int]:
        """(source, shard, index in the shard)."""
        shard = int(self._starts.searchsorted(number, side="right")) - 1
        return *self._places[shard], number - int(self._starts[shard])


class NegativeTable:
    """For each direction and each sample by number, the numbers of those that it may be told from.

    `settings`: what it was made with, among it ``step`` and ``per_sample``. ValueError where the
    file can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        try:
            with safe_open(path, framework="np") as file:
                self.settings: dict[str, Any] = json.loads(file.metadata()[_SETTINGS])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no table of negatives: {error}") from None
        self.directions = [Direction(tuple(q), tuple(k)) for q, k in self.settings["directions"]]

    @staticmethod
    def write(
        path: Path,
        candidates: Mapping[Direction, NDArray[np.int32]],
        settings: Mapping[str, Any],
    ) -> None:
        """`candidates`: [all samples,n] for each direction, -1 where there are none."""
        told = {**settings, "directions": [[list(d.query), list(d.key)] for d in candidates]}
        partial = path.with_name(f".{path.name}.partial")
        save_file(
            {d.name: c for d, c in candidates.items()}, partial, {_SETTINGS: json.dumps(told)}
        )
        partial.rename(path)

    def candidates(self, direction: Direction, number: int) -> list[int]:
        if self._file is None:
            self._file = safe_open(self.path, framework="np")
        row = self._file.get_slice(direction.name)[number : number + 1][0]
        return [int(n) for n in row if n >= 0]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}  # each worker opens it itself


class NegativeDraws:
    """Reads and decodes the negatives of a sample."""

    def __init__(self, table: NegativeTable, reader: SampleReader, decoder: SampleDecoder) -> None:
        self.table, self.reader, self.decoder = table, reader, decoder
        self.numbers = Numbers(reader.sources)
        self.per_sample = int(table.settings["per_sample"])

    def of(
        self, sample: Sample, draw: Draw, place: tuple[int, int, int], bad: list[BadRecord]
    ) -> Iterator[Sample]:
        """For each direction of which `sample` has both sides, ``per_sample`` samples of another
        group with just the modalities of the other side that it has itself. `place` is where it
        was read; bad samples are added to `bad`, and another is taken.

        ValueError where there are too few.
        """
        own = self.numbers.number(*place)
        has = set(sample.inputs) | set(sample.cached)
        for at, direction in enumerate(self.table.directions):
            wanted = has & set(direction.key)
            if not wanted or not has & set(direction.query):
                continue
            taken = 0
            for number in self._in_order(direction, own, hash_ints(draw.seed, at)):
                seed = hash_ints(draw.seed, at, _DECODE, number) >> 1
                found = self._decoded(number, wanted, sample.group, seed, bad)
                if found is None:
                    continue
                found.stream, found.masked_view, found.negative = draw.stream, False, True
                yield found
                taken += 1
                if taken == self.per_sample:
                    break
            else:
                raise ValueError(
                    f"head.hard_negatives: {sample.sample_id} has fewer than {self.per_sample} "
                    f"samples of another group with {' and '.join(sorted(wanted))}"
                )

    def _in_order(self, direction: Direction, own: int, seed: int) -> Iterator[int]:
        """The table's candidates in random order, then any samples.

        Each candidate has a number of its own in the draw, so that another one at the edge of the
        table changes no other draw.
        """
        near = self.table.candidates(direction, own)
        yield from sorted(near, key=lambda number: hash_ints(seed, _CANDIDATE, number))
        known = {own, *near}
        for attempt in range(MAX_STRANGERS):
            number = hash_ints(seed, _STRANGER, attempt) % len(self.numbers)
            if number not in known:
                known.add(number)
                yield number

    def _decoded(
        self, number: int, wanted: set[str], group: int, seed: int, bad: list[BadRecord]
    ) -> Sample | None:
        source, shard, index = self.numbers.place(number)
        if self.reader.sources[source][1].index(shard).modalities(index) is None:
            return None  # outside the subset, which is no fault of the sample
        try:
            raw = self.reader.read(source, shard, index)
            if not wanted <= set(raw.modalities):
                return None
            found = self.decoder.decode(raw, seed, only=wanted)
        except BadSample as problem:
            bad.append(BadRecord.of(problem))
            return None
        return None if found.group == group else found
