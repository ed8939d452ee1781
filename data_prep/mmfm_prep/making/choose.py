"""Which of the completed samples go into the shards, and into which split: what can only be said
when all are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from mmfm_prep.filters.options import KINDS, Filters
from mmfm_prep.making.draft import LeftOut, Made
from mmfm_prep.making.split import assign, assign_by_time

SplitBy = Literal["group", "time"]
TRAIN = "train"
_NAMES = {"image": "picture", "audio": "sound", "text": "text"}

Known = Callable[[], Iterable[Made | LeftOut]]
"""Gives everything that was completed, in order, without pictures and sounds, as often as asked."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How it is chosen: see `FilesSource` and `Filters`."""

    shares: dict[str, float]
    seed: int
    split_by: SplitBy
    drop_leaks: bool
    filters: Filters

    def choose(self, known: Known) -> list[str | LeftOut]:
        """For each draft its split, or why it is left out."""
        splits = self._splits(known)
        # Held-out samples come first, so that of two equal ones it is the other that goes.
        compares = self.filters.duplicates or self.filters.near.indexes()
        order = [False, True] if self.drop_leaks or compares else []
        first = _First(self.filters, self.drop_leaks)
        for training in order:
            for number, made in enumerate(known()):
                split = splits[number]
                if isinstance(made, LeftOut) or isinstance(split, LeftOut):
                    continue
                if (split == TRAIN) is training and (reason := first.refuses(number, made, split)):
                    splits[number] = LeftOut(made.place, reason)
        return splits

    def _splits(self, known: Known) -> list[str | LeftOut]:
        if self.split_by == "group":
            return list(self._by_group(known()))
        latest: dict[str, tuple[float, int]] = {}
        for made in known():
            if isinstance(made, Made) and made.time is not None and not made.sample.split:
                time, count = latest.get(made.sample.group, (made.time, 0))
                latest[made.sample.group] = max(time, made.time), count + 1
        by_time = assign_by_time(latest, self.shares)
        return [
            made
            if isinstance(made, LeftOut)
            else made.sample.split
            or by_time.get(made.sample.group)
            or LeftOut(made.place, "time is missing")
            for made in known()
        ]

    def _by_group(self, known: Iterable[Made | LeftOut]) -> Iterator[str | LeftOut]:
        for made in known:
            if isinstance(made, LeftOut):
                yield made
                continue
            group = made.sample.group
            yield made.sample.split or assign([group], self.shares, self.seed)[group]


class _First:
    """What was seen first of all that is equal, or nearly so."""

    def __init__(self, filters: Filters, drop_leaks: bool) -> None:
        self._drop_leaks = drop_leaks
        self._duplicates = filters.duplicates
        self._seen: dict[str, set[bytes]] = {kind: set() for kind in KINDS}
        self._held_out: dict[str, set[bytes]] = {kind: set() for kind in KINDS}
        self._near = filters.near.indexes()

    def refuses(self, number: int, made: Made, split: str) -> str:
        """Why the sample is not to stay; "" where it is."""
        for kind, digest in made.sample.digests.items():
            if self._drop_leaks and split == TRAIN and digest in self._held_out[kind]:
                return f"{_NAMES[kind]} is also held out"
            if kind in self._duplicates and digest in self._seen[kind]:
                return f"{_NAMES[kind]} is there already"
        signed = {kind: made.signatures.get(kind) for kind in self._near}
        for kind, signature in signed.items():
            if signature and self._near[kind].find(signature) is not None:
                return f"{_NAMES[kind]} is nearly one that is there"
        for kind, signature in signed.items():
            if signature:
                self._near[kind].remember(number, signature)
        for kind, digest in made.sample.digests.items():
            if kind in self._duplicates:
                self._seen[kind].add(digest)
            if self._drop_leaks and split != TRAIN:
                self._held_out[kind].add(digest)
        return ""
