"""The mistakes of an evaluation with the picture, the text and the sound of each sample.

They are read from the sources of the run's recipe, by id. What is not there any more, or can't be
read, is said on the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from PIL import Image

from mmfm.config import from_dict
from mmfm.data.facts import read_facts
from mmfm.data.manifest import Manifest
from mmfm.data.reader import RawSample, SampleReader
from mmfm.data.remote.cache import CacheConfig
from mmfm.data.remote.fetch import RemoteConfig
from mmfm.data.subset import subset_of
from mmfm.data.transforms import audio, image, text
from mmfm.data.transforms.base import BadSample
from mmfm_eval.report import media
from mmfm_eval.suite import SourceConfig

SOUND_LIMIT = 2_000_000
"""Bytes of a sound above which it is not put into the page."""

AROUND = 12
"""Tokens that are shown before and behind what is marked."""


@dataclass(frozen=True)
class Piece:
    """Some tokens of a text; of an entity its `kind`, and whether the other side has it too."""

    text: str
    kind: str | None = None
    both: bool = True


@dataclass
class Shown:
    """A sample as the page shows it; `problem`: why it can't be."""

    id: str
    text: str = ""
    tokens: list[str] = field(default_factory=list)
    picture: str | None = None
    sound: str | None = None
    problem: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass
class Card:
    """A mistake: its sample, what is right and what was said, both also as marked text, and other
    samples by what they are.
    """

    sample: Shown
    right: str
    said: str
    marked: dict[str, list[Piece]]
    beside: dict[str, Shown]


class Sources:
    """The sources of the evaluation of a recipe (as plain JSON), each opened once."""

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        self._recipe = recipe
        self._open = cache(self._opened)
        self.gone: dict[str, str] = {}

    def cards(self, mistakes: Sequence[Mapping[str, Any]]) -> list[Card]:
        """A card for each of the mistakes."""
        return [self._card(mistake) for mistake in mistakes]

    def _card(self, mistake: Mapping[str, Any]) -> Card:
        sample = self._show(mistake["source"], mistake["id"])
        marked = {}
        if mistake["spans"] and sample.tokens:
            right, said = (mistake["spans"][side] for side in ("right", "said"))
            marked = {
                "right": pieces(sample.tokens, right, said),
                "said": pieces(sample.tokens, said, right),
            }
        beside = {
            what: self._show(mistake["beside_source"], name)
            for what, name in mistake["beside"].items()
        }
        return Card(sample, mistake["right"], mistake["said"], marked, beside)

    def _show(self, source: str, name: str) -> Shown:
        opened = self._open(source)
        if opened is None:
            return Shown(name, problem="its source is gone")
        try:
            return _shown(opened.read(name), name)
        except (KeyError, ValueError, OSError) as error:
            return Shown(name, problem=f"it can't be read: {error}")

    def _opened(self, name: str) -> _Source | None:
        try:
            return _Source(name, self._recipe)
        except (KeyError, ValueError, OSError) as error:
            self.gone[name] = str(error)
            return None


class _Source:
    """A source by the ids of its samples."""

    def __init__(self, name: str, recipe: Mapping[str, Any]) -> None:
        config = from_dict(SourceConfig, recipe["eval"]["sources"][name])
        data = recipe["data"]
        manifest = Manifest.open(
            config.path,
            config.splits,
            config.modalities,
            from_dict(CacheConfig, data.get("cache") or {}),
            from_dict(RemoteConfig, data.get("remote") or {}),
            data.get("transforms"),
        )
        self.name = name
        self.manifest = manifest if config.subset is None else subset_of(manifest, config.subset)
        self._reader = SampleReader([(name, self.manifest)])

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        facts = read_facts(self.manifest)
        found: dict[str, tuple[int, int]] = {}
        for shard, (start, end) in enumerate(zip(facts.first, facts.first[1:], strict=False)):
            for i in range(start, end):
                told = facts.ids[i]
                found.setdefault(told or f"{self.name}/{facts.names[i]}", (shard, i - start))
        return found

    def read(self, name: str) -> RawSample:
        if name not in self._places:
            raise ValueError(f"source {self.name} has no sample of that id")
        return self._reader.read(0, *self._places[name])


def _shown(raw: RawSample, name: str) -> Shown:
    tokens = raw.meta.get("tokens")
    shown = Shown(name, tokens=list(map(str, tokens)) if isinstance(tokens, list) else [])
    shown.text = " ".join(shown.tokens)
    if not shown.tokens:
        try:
            first = text.Config().contents(raw.files, raw.meta)[0]
            shown.text = first.decode("utf-8")
        except BadSample:
            pass  # many samples have no text
    if "image" in raw.modalities and any(e in raw.files for e in image.ENDINGS):
        try:
            shown.picture = media.picture(raw.files, side=320)
        except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            shown.notes.append(f"its picture can't be shown: {error}")
    ending = next((e for e in audio.ENDINGS if e in raw.files), None)
    if "audio" in raw.modalities and ending is not None:
        size = len(raw.files[ending])
        if size <= SOUND_LIMIT:
            shown.sound = media.sound(raw.files)
        else:
            shown.notes.append(f"its sound ({size / 1e6:.0f} MB) is too large for this page")
    return shown


def pieces(
    tokens: Sequence[str], own: Sequence[Sequence[Any]], other: Sequence[Sequence[Any]]
) -> list[Piece]:
    """The text with the spans [type, start, end] of one side marked, cut to what is near a span of
    either.
    """
    near = set[int]()
    for _, start, end in (*own, *other):
        near |= set(range(start - AROUND, end + AROUND))
    starts = {start: (kind, end) for kind, start, end in own}
    found: list[Piece] = []
    plain: list[str] = []

    def flush() -> None:
        if plain:
            found.append(Piece(" ".join(plain)))
            plain.clear()

    place = 0
    while place < len(tokens):
        if place in starts:
            kind, end = starts[place]
            flush()
            both = [kind, place, end] in other
            found.append(Piece(" ".join(tokens[place:end]), kind, both))
            place = end
            continue
        if place in near:
            plain.append(tokens[place])
        elif not plain or plain[-1] != "…":
            plain.append("…")
        place += 1
    flush()
    return found
