"""A stratum: the samples of one source that have the same modalities, and where each of them lies.

`build_strata` groups the shards of every source by modality set. A shard of one modality set needs
only its count; a mixed shard contributes to several strata, and its index is loaded when one of its
samples is drawn. Memory: 16 bytes for each shard of a stratum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from mmfm.config import ConfigError
from mmfm.data.lru import Lru
from mmfm.data.manifest import Manifest
from mmfm.data.schedule import quantise

_MEMBERS_HELD = 256


@dataclass(eq=False)
class Stratum:
    """Samples 0..n-1 of one source and one modality set, in the order of the manifest's shards.

    `shards` int64 [S]: the shards that hold some; `ends` int64 [S]: samples up to the end of each.
    `weight`: its slots in a period of the round robin.
    """

    source: int
    source_name: str
    modality_set: str
    shards: NDArray[np.int64]
    ends: NDArray[np.int64]
    manifest: Manifest = field(repr=False)
    weight: int = 0
    _members: Lru[NDArray[np.int32]] = field(default_factory=lambda: Lru(_MEMBERS_HELD), repr=False)

    @property
    def samples(self) -> int:
        return int(self.ends[-1])

    def locate(self, item: int) -> tuple[int, int]:
        """(shard, index in that shard) of sample `item` of the stratum."""
        at = int(self.ends.searchsorted(item, side="right"))
        inside = item - (int(self.ends[at - 1]) if at else 0)
        shard = int(self.shards[at])
        described = self.manifest.shards[shard]
        if described.modality_sets[self.modality_set] < described.samples:
            members = self._members.get(
                shard, lambda: self.manifest.index(shard).members(self.modality_set)
            )
            inside = int(members[inside])
        return shard, inside


def build_strata(
    sources: Sequence[tuple[str, Manifest, float | int | None]],
) -> tuple[list[Stratum], dict[str, int]]:
    """The weighted strata of `sources` (name, manifest, weight or None for its sample count), and
    by source the samples that have no modality at all: those are in no stratum.

    A source's weight, relative to the others', is divided over its strata by their size.
    """
    strata: list[Stratum] = []
    shares: list[Fraction] = []
    ignored: dict[str, int] = {}
    for number, (name, manifest, weight) in enumerate(sources):
        found, ignored[name] = _of_source(number, name, manifest)
        total = sum(s.samples for s in found)
        if total == 0:
            raise ConfigError(
                f"data.sources.{name} is empty: {len(manifest.shards)} shards hold no sample with a"
                " known modality. Check its path and splits, or leave the source out"
            )
        share = Fraction(total) if weight is None else _fraction(name, weight)
        strata += found
        shares += [share * s.samples / total for s in found]
    for stratum, weight in zip(strata, quantise(shares), strict=True):
        stratum.weight = weight
    return strata, ignored


def _fraction(name: str, weight: float | int) -> Fraction:
    """The decimal that the user wrote: 0.1 is a tenth, not the binary number nearest to it."""
    try:
        exact = Fraction(str(weight))
    except ValueError:  # nan, inf
        exact = Fraction(0)
    if exact <= 0:
        raise ConfigError(f"data.sources.{name}.weight = {weight!r}: a positive number is needed")
    return exact


def _of_source(number: int, name: str, manifest: Manifest) -> tuple[list[Stratum], int]:
    counts: dict[str, tuple[list[int], list[int]]] = {}
    for shard_no, shard in enumerate(manifest.shards):
        for modality_set, count in shard.modality_sets.items():
            if count > 0:
                shards, sizes = counts.setdefault(modality_set, ([], []))
                shards.append(shard_no)
                sizes.append(count)
    ignored = sum(counts.pop("", ([], []))[1])
    strata = [
        Stratum(
            source=number,
            source_name=name,
            modality_set=modality_set,
            shards=np.array(shards, np.int64),
            ends=np.cumsum(sizes, dtype=np.int64),
            manifest=manifest,
        )
        for modality_set, (shards, sizes) in sorted(counts.items())
    ]
    return strata, ignored
