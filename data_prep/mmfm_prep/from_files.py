"""What the sources that read the user's own files share: splits, processing, counted losses.

A source derives its `Config` from `FilesSource` and yields drafts (`mmfm_prep.draft`). Here their
files are read on all cores, and what can't be used is left out, counted by reason and said at the
end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mmfm_prep.draft import Draft, LeftOut, complete
from mmfm_prep.errors import PrepError
from mmfm_prep.media import Processing
from mmfm_prep.parallel import ordered_map
from mmfm_prep.progress import say
from mmfm_prep.sample import Sample
from mmfm_prep.sources.base import Source
from mmfm_prep.split import assign

_PLACES = 3  # the first places of each reason are named


@dataclass(kw_only=True)
class FilesSource(Source):
    """Options of every source that reads files.

    `shares`: splits and their shares; a group goes into one of them, whole, by a hash of `seed` and
    its name. All splits but ``train`` are held out: what they share with it is counted.
    """

    input: Path
    shares: dict[str, float] = field(default_factory=lambda: {"train": 0.9, "val": 0.1})
    media: Processing = field(default_factory=Processing)
    licence: str = "unknown"  # type: ignore[misc]  # here it is the user's to say

    def __post_init__(self) -> None:
        super().__post_init__()
        self._splits: set[str] = set()
        if not self.shares or min(self.shares.values()) <= 0:
            raise ValueError(f"shares = {self.shares}: every share must be above 0")

    def drafts(self) -> Iterator[Draft | LeftOut]:
        """Every sample of the input, in an order that depends on the input and the options only."""
        raise NotImplementedError

    def samples(self) -> Iterator[Sample]:
        if not self.input.exists():
            raise PrepError(f"there is no {self.input}")
        self._splits = set()
        left_out: dict[str, dict[str, Any]] = {}
        finish = partial(_finish, how=self.media, source=self.input.name, licence=self.licence)
        for found in ordered_map(finish, self.drafts()):
            if isinstance(found, Sample):
                found.split = found.split or self.split_of(found.group)
                self._splits.add(found.split)
                yield found
                continue
            entry = left_out.setdefault(found.reason, {"samples": 0, "first": []})
            entry["samples"] += 1
            entry["first"] += [found.place] if len(entry["first"]) < _PLACES else []
        self.notes["left_out"] = left_out
        for reason, entry in left_out.items():
            say(f"left out: {entry['samples']:,} ({reason}), first {', '.join(entry['first'])}")

    def held_out(self) -> tuple[str, ...]:
        return tuple(sorted(self._splits - {"train"}))

    def split_of(self, group: str) -> str:
        """The split of a group, by its hash."""
        return assign([group], self.shares, self.seed)[group]


def _finish(draft: Draft | LeftOut, **how: Any) -> Sample | LeftOut:
    return draft if isinstance(draft, LeftOut) else complete(draft, **how)
