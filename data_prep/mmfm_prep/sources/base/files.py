"""What the sources that read the user's own files share: splits, processing, filters, losses.

A source derives its `Config` from `FilesSource` and yields drafts (`mmfm_prep.making.draft`). Here
their files are read on all cores and wait in a spool; when all are known, it is chosen which stay.
What doesn't is counted by reason and said at the end.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mmfm_prep.augment.text import TextAugmentation
from mmfm_prep.errors import PrepError
from mmfm_prep.filters.options import Filters
from mmfm_prep.making.choose import TRAIN, Choice, Known, SplitBy
from mmfm_prep.making.draft import Draft, LeftOut, Made, Recipe, check_split
from mmfm_prep.making.media import Processing
from mmfm_prep.making.spool import Chunk, Spool, chunks
from mmfm_prep.parallel import ordered_map
from mmfm_prep.progress import counted, say
from mmfm_prep.sample import Sample
from mmfm_prep.sources.base import Source
from mmfm_prep.stopping import check_stop

_PLACES = 3  # the first places of each reason are named


@dataclass(kw_only=True)
class FilesSource(Source):
    """Options of every source that reads files.

    `shares`: splits and their shares; a group goes into one of them, whole: by a hash of `seed` and
    its name, or (`split_by` time) the older into the first split that is named, the newer into the
    last. All splits but ``train`` are held out: what they share with it is counted, and left out of
    ``train`` where `drop_leaks` is set.
    """

    not_recorded: ClassVar[tuple[str, ...]] = ("augment.cache",)
    same_id_hint: ClassVar[str] = ""
    """What to do where ids repeat, said once; of samples that share an id the first stays."""

    input: Path
    shares: dict[str, float] = field(default_factory=lambda: {"train": 0.9, "val": 0.1})
    split_by: SplitBy = "group"
    drop_leaks: bool = False
    media: Processing = field(default_factory=Processing)
    filters: Filters = field(default_factory=Filters)
    augment: TextAugmentation = field(default_factory=TextAugmentation)
    licence: str = "unknown"  # type: ignore[misc]  # here it is the user's to say

    def __post_init__(self) -> None:
        super().__post_init__()
        self._splits: set[str] = set()
        for split in self.shares:
            check_split(split)
        if not self.shares or min(self.shares.values()) <= 0:
            raise ValueError(f"shares = {self.shares}: every share must be above 0")

    def drafts(self) -> Iterator[Draft | LeftOut]:
        """Every sample of the input, in an order that depends on the input and the options only."""
        raise NotImplementedError

    def check_input(self) -> None:
        """PrepError where there is no input."""
        if not self.input.exists():
            raise PrepError(f"there is no {self.input}")

    def input_digest(self) -> str:
        """Stands for all that `drafts` gives, the names and sizes of its files included."""
        digest = hashlib.sha256()
        for chunk in self._chunks():
            digest.update(chunk.digest.encode())
        return digest.hexdigest()

    def samples(self) -> Iterator[Sample]:
        with _folder(self.execution.work) as folder:
            spool = Spool(folder)
            names = self._complete(spool)
            known = partial(_read, spool, names, media=False)
            choice = Choice(
                shares=self.shares,
                seed=self.seed,
                split_by=self.split_by,
                drop_leaks=self.drop_leaks,
                filters=self.filters,
            )
            splits = self.last_choice(known, choice.choose(known))
            self._splits = {split for split in splits if isinstance(split, str)}
            self._say_left_out(splits)
            self._say_splits(Counter(split for split in splits if isinstance(split, str)))
            texts: Counter[str] = Counter()
            for made, split in zip(_read(spool, names, media=True), splits, strict=True):
                if isinstance(split, str) and isinstance(made, Made):
                    made.sample.split = split
                    texts.update(made.counts)
                    yield made.sample
            self._say_texts(texts)

    def last_choice(self, known: Known, splits: list[str | LeftOut]) -> list[str | LeftOut]:
        """`splits`, less what the source leaves out once it is known what could be completed."""
        return splits

    def held_out(self) -> tuple[str, ...]:
        return tuple(sorted(self._splits - {TRAIN}))

    def _chunks(self) -> Iterator[Chunk]:
        self.check_input()
        return chunks(self._first_of_each_id(), self._recipe())

    def _first_of_each_id(self) -> Iterator[Draft | LeftOut]:
        """The drafts, where of those that share an id the first one stays."""
        seen: set[bytes] = set()
        said = False
        for draft in self.drafts():
            if isinstance(draft, Draft):
                digest = hashlib.blake2b(draft.id.encode("utf-8", "surrogatepass"), digest_size=12)
                if digest.digest() in seen:
                    if self.same_id_hint and not said:
                        say(f"{draft.place}: id {draft.id!r} is there already; {self.same_id_hint}")
                    said = True
                    draft = LeftOut(draft.place, "id is there already")
                seen.add(digest.digest())
            yield draft

    def _recipe(self) -> Recipe:
        return Recipe(
            media=self.media,
            filters=self.filters,
            augment=self.augment,
            seed=self.seed,
            source=self.input.resolve().name,
            licence=self.licence,
        )

    def _complete(self, spool: Spool) -> list[str]:
        """Complete the chunks that aren't in the spool; the names of all."""
        names: list[str] = []
        digest = hashlib.sha256()
        found = 0

        def undone() -> Iterator[Chunk]:
            nonlocal found
            for chunk in self._chunks():
                names.append(chunk.name)
                digest.update(chunk.digest.encode())
                if spool.has(chunk):
                    found += len(chunk.drafts)
                else:
                    yield chunk

        self.augment.prepare()
        work = partial(spool.complete, recipe=self._recipe())
        with counted("read files") as count:
            for samples in ordered_map(work, undone(), chunk=1, execution=self.execution):
                check_stop()
                count(samples)
        if found:
            say(f"{found:,} samples were read before the interruption")
        self.notes["input_sha256"] = digest.hexdigest()
        return names

    def _say_left_out(self, splits: list[str | LeftOut]) -> None:
        left_out: dict[str, dict[str, Any]] = {}
        for found in splits:
            if isinstance(found, LeftOut):
                entry = left_out.setdefault(found.reason, {"samples": 0, "first": []})
                entry["samples"] += 1
                entry["first"] += [found.place] if len(entry["first"]) < _PLACES else []
        self.notes["left_out"] = left_out
        for reason, entry in left_out.items():
            say(f"left out: {entry['samples']:,} ({reason}), first {', '.join(entry['first'])}")

    def _say_splits(self, counts: Counter[str]) -> None:
        if not counts:
            return
        say("splits: " + ", ".join(f"{split} {n:,}" for split, n in sorted(counts.items())))
        if self.held_out() and TRAIN not in counts:
            say("no split is called train: all of it counts as held out, and nothing as a leak")
        if set(counts) < set(self.shares):
            empty = ", ".join(split for split in self.shares if split not in counts)
            say(f"nothing in {empty}: these are too few groups for its share")

    def _say_texts(self, texts: Counter[str]) -> None:
        self.notes["texts"] = counts = {what: n for what, n in sorted(texts.items()) if n}
        if counts:
            say("texts: " + ", ".join(f"{n:,} {what}" for what, n in counts.items()))


def _read(spool: Spool, names: list[str], media: bool) -> Iterator[Made | LeftOut]:
    for name in names:
        yield from spool.read(name, media)


@contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    """The folder where unfinished work waits."""
    if work is not None:
        yield work
        return
    with tempfile.TemporaryDirectory(prefix="mmfm.") as folder:
        yield Path(folder)
