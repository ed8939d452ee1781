"""Emoji in seven art styles, their names in many languages, and synthetic voices that say them.

    mmfm data make emoji data/emoji
    mmfm data make emoji data/tune 'styles=[noto, openmoji-color, openmoji-black, fluent-flat]' \\
        'held_out_styles=[openmoji-color, openmoji-black]'

Splits: ``pictures-<style>`` (picture and names), ``voices-<voice>`` (a spoken English name and
names), ``pairs-train`` (a picture in a train style with a train voice), ``pairs-test`` (a held-out
style with a held-out voice). `group` is the code point: one concept in all styles and voices.
Labels: category and subcategory. The voices are synthetic. A tokenizer trained on the texts goes
into the folder ``tokenizer``. Packages come from npm, pinned, into `cache`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmfm.data.tokenizer import train_bpe
from mmfm_prep import pictures, sound
from mmfm_prep.errors import PrepError
from mmfm_prep.parallel import ordered_map
from mmfm_prep.progress import track, working
from mmfm_prep.registries import fetch, voices
from mmfm_prep.registries.emoji_art import (
    DATA_PACKAGE,
    NAMES_PACKAGE,
    PACKAGES,
    STYLES,
    Concept,
    find_concepts,
    names,
    read_members,
)
from mmfm_prep.sample import Sample
from mmfm_prep.sources.base import Source

SPOKEN_CATEGORIES = (
    *("Animals & Nature", "Food & Drink", "Objects", "Travel & Places", "Activities"),
)
"""Where names are names of things, not of moods, signs or directions."""


@dataclass(kw_only=True)
class Config(Source):
    """Options of the emoji set."""

    licence: ClassVar[str] = (
        "pictures: Noto Apache-2.0, Twemoji CC-BY-4.0, OpenMoji CC-BY-SA-4.0, Fluent MIT; "
        "names: Unicode-3.0; categories: MIT; voices: free output of espeak-ng"
    )
    not_recorded: ClassVar[tuple[str, ...]] = ("cache",)
    shared_by_design: ClassVar[tuple[str, ...]] = ("text", "group")

    cache: Path = Path("cache")
    """Where the fetched packages stay."""
    image_size: int = 96
    styles: list[str] = field(default_factory=lambda: list(STYLES))
    held_out_styles: list[str] = field(default_factory=lambda: ["twemoji"])
    languages: list[str] = field(
        default_factory=lambda: ["en", "de", "es", "fr", "it", "ro", "ru", "zh"]
    )
    """Codes of CLDR, English first."""
    concepts: int | None = None
    """How many are drawn, the spoken ones first, the others by lot; None: all that there are."""
    words: int = 130
    """How many names are spoken; 0: no voices and no pairs."""
    voices: list[str] = field(
        default_factory=lambda: [
            *("en-us+m1", "en-us+m7", "en-us+f1", "en+m3", "en-gb-x-rp+f3", "en+f4"),
            *("en-us+f2", "en+m5"),
        ]
    )
    """Voices of espeak-ng, ``language+variant``."""
    held_out_voices: list[str] = field(default_factory=lambda: ["en-us+f2", "en+m5"])
    voices_per_picture: int = 2
    """In ``pairs-train``: with how many of the train voices each train picture of a word comes."""
    sample_rate: int = 16000
    vocab_size: int = 6000

    def __post_init__(self) -> None:
        super().__post_init__()
        _subset("styles", self.styles, STYLES)
        _subset("held_out_styles", self.held_out_styles, self.styles)
        _subset("held_out_voices", self.held_out_voices, self.voices)
        if set(self.styles) == set(self.held_out_styles):
            raise ValueError("held_out_styles leaves no style to train on")
        if self.words and set(self.voices) == set(self.held_out_voices):
            raise ValueError("held_out_voices leaves no voice to train on")
        if self.languages[:1] != ["en"]:
            raise ValueError(f"languages = {self.languages}: must begin with en, which is spoken")
        if not 16 <= self.image_size <= 512:
            raise ValueError(f"image_size = {self.image_size}: must be 16 to 512 pixels")
        if self.words < 0 or self.voices_per_picture < 1:
            raise ValueError("words must be 0 or more, voices_per_picture 1 or more")
        if self.concepts is not None and self.concepts < max(1, self.words):
            raise ValueError(f"concepts = {self.concepts}: must be at least words = {self.words}")

    def held_out(self) -> tuple[str, ...]:
        return (
            *(f"pictures-{style}" for style in self.held_out_styles),
            *(f"voices-{_slug(voice)}" for voice in self.held_out_voices),
            "pairs-test",
        )

    def samples(self) -> Iterator[Sample]:
        concepts, art = self._concepts()
        spoken = choose_words(concepts, self.words, self.seed, self.voices[0]) if self.words else []
        if self.concepts is not None:
            concepts = choose_concepts(concepts, self.concepts, spoken, self.seed)
        self._texts = [t for c in concepts for texts in c.texts.values() for t in texts]
        self.notes["concepts"] = len(concepts)
        self.notes["spoken_words"] = [c.name for c in spoken]
        lines = [(c.name, voice) for voice in self.voices for c in spoken]
        kept: dict[tuple[str, str], bytes] = {}
        with ThreadPoolExecutor(1) as aside:  # the voices have a process of their own
            speech = aside.submit(voices.say_all, lines) if lines else None
            yield from self._drawn(concepts, art, spoken, kept)
            if speech is not None:
                with working("speaking words"):
                    waves, rate = speech.result()
                clips = self._clips(waves, rate)
                yield from self._spoken(spoken, kept, dict(zip(lines, clips, strict=True)))

    def finish(self, folder: Path) -> None:
        train_bpe(self._texts, self.vocab_size, folder / "tokenizer")

    def _concepts(self) -> tuple[list[Concept], dict[str, dict[str, bytes]]]:
        needed = [DATA_PACKAGE, NAMES_PACKAGE, *(STYLES[s].package for s in self.styles)]
        paths = {name: fetch.npm(PACKAGES[name], self.cache) for name in dict.fromkeys(needed)}
        drawn = [name for name in paths if name != NAMES_PACKAGE]
        read = partial(read_members, wanted=_is_art_or_data)
        contents = ordered_map(
            read, [paths[name] for name in drawn], chunk=1, execution=self.execution
        )
        files = dict(zip(drawn, contents, strict=True))
        entries = json.loads(files[DATA_PACKAGE]["package/emoji.json"])
        art = {style: files[STYLES[style].package] for style in self.styles}
        concepts, left_out = find_concepts(
            entries, names(paths[NAMES_PACKAGE], self.languages), art
        )
        self.notes["packages"] = {name: PACKAGES[name].version for name in paths}
        self.notes["code_points_left_out"] = left_out
        return concepts, art

    def _drawn(
        self,
        concepts: Sequence[Concept],
        art: dict[str, dict[str, bytes]],
        spoken: Sequence[Concept],
        kept: dict[tuple[str, str], bytes],
    ) -> Iterator[Sample]:
        """Every concept in every style; the pictures of the `spoken` ones also go into `kept`."""
        blank = dict.fromkeys(self.styles, 0)
        drawings = [(style, concept) for style in self.styles for concept in concepts]
        files = [art[style][concept.paths[style]] for style, concept in drawings]
        images = ordered_map(partial(draw, size=self.image_size), files, execution=self.execution)
        drawn = track(images, "draw pictures", len(files))
        for (style, concept), image in zip(drawings, drawn, strict=True):
            if image is None:
                blank[style] += 1
                continue
            if concept in spoken:
                kept[style, concept.code] = image
            yield self._sample(f"pictures-{style}", concept, image=image, style=style)
        self.notes["blank_pictures_dropped"] = {s: n for s, n in blank.items() if n}

    def _clips(self, waves: Sequence[sound.Wave], rate: int) -> Iterator[bytes]:
        """What was spoken as FLAC, without silence at its ends."""
        convert = partial(_clip, rate=rate, to_rate=self.sample_rate)
        return track(
            ordered_map(convert, waves, execution=self.execution), "encode words", len(waves)
        )

    def _spoken(
        self,
        spoken: Sequence[Concept],
        kept: dict[tuple[str, str], bytes],
        audio: dict[tuple[str, str], bytes],
    ) -> Iterator[Sample]:
        for voice in self.voices:
            for concept in spoken:
                yield self._sample(
                    f"voices-{_slug(voice)}", concept, audio=audio[concept.name, voice], voice=voice
                )
        train_styles = [s for s in self.styles if s not in self.held_out_styles]
        train_voices = [v for v in self.voices if v not in self.held_out_voices]
        for number, concept in enumerate(spoken):
            for place, style in enumerate(train_styles):
                # Turned by word and style, so that all voices come equally often.
                for turn in range(min(self.voices_per_picture, len(train_voices))):
                    step = number + place * self.voices_per_picture + turn
                    voice = train_voices[step % len(train_voices)]
                    yield from self._pair("pairs-train", concept, style, voice, kept, audio)
            for style in self.held_out_styles:
                for voice in self.held_out_voices:
                    yield from self._pair("pairs-test", concept, style, voice, kept, audio)

    def _pair(
        self,
        split: str,
        concept: Concept,
        style: str,
        voice: str,
        images: dict[tuple[str, str], bytes],
        audio: dict[tuple[str, str], bytes],
    ) -> Iterator[Sample]:
        image = images.get((style, concept.code))
        if image is not None:
            yield self._sample(
                split,
                concept,
                image=image,
                audio=audio[concept.name, voice],
                style=style,
                voice=voice,
            )

    def _sample(
        self,
        split: str,
        concept: Concept,
        *,
        image: bytes | None = None,
        audio: bytes | None = None,
        style: str = "",
        voice: str = "",
    ) -> Sample:
        made_with = "-".join(part for part in (style, _slug(voice)) if part)
        licences = [STYLES[style].licence] if style else []
        meta: dict[str, Any] = {"style": style} if style else {}
        if voice:
            meta |= {"voice": voice, "language": "en", "speech": "synthetic"}
        return Sample(
            key=f"{concept.code}-{made_with}",
            id=f"emoji/{concept.code}/{made_with}",
            group=f"emoji/{concept.code}",
            split=split,
            texts=concept.texts,
            image=image,
            audio=audio,
            labels={"category": concept.category, "subcategory": concept.subcategory},
            source=STYLES[style].package if style else "espeak-ng",
            licence=", ".join([*licences, "names Unicode-3.0"]),
            meta=meta,
        )


def _clip(wave: sound.Wave, rate: int, to_rate: int) -> bytes:
    trimmed = sound.resample(sound.trim(wave, rate), rate, to_rate)
    return sound.encode(sound.to_level(trimmed), to_rate)


def draw(art: bytes, size: int) -> bytes | None:
    """A picture of the package as PNG on white; None where nothing is left to be seen."""
    if art.lstrip().startswith(b"<"):
        picture = pictures.render_svg(art.decode("utf-8"), 3 * size // 2)  # framing enlarges
    else:
        picture = pictures.decode(art)
    on_white = pictures.on_white(pictures.framed(picture), size)
    return None if pictures.is_blank(on_white) else pictures.png(on_white)


def choose_words(concepts: Sequence[Concept], count: int, seed: int, voice: str) -> list[Concept]:
    """`count` concepts whose English name is one plain word that means and sounds like no other."""
    used = Counter(word for c in concepts for word in set(re.findall(r"[a-z]+", c.name.lower())))
    candidates = [
        c
        for c in concepts
        if c.category in SPOKEN_CATEGORIES
        and re.fullmatch(r"[a-z]{3,10}", c.name)
        and used[c.name] == 1
    ]
    sounds = voices.pronounce_all([c.name for c in candidates], voice)
    heard = Counter(sounds)
    clear = [c for c, s in zip(candidates, sounds, strict=True) if s and heard[s] == 1]
    if len(clear) < count:
        raise PrepError(f"words = {count}: only {len(clear)} names are single unambiguous words")
    chosen = np.random.default_rng([seed, 3]).permutation(len(clear))[:count]
    return [clear[i] for i in sorted(chosen)]


def choose_concepts(
    concepts: Sequence[Concept], count: int, always: Sequence[Concept], seed: int
) -> list[Concept]:
    """`always` and others by lot, `count` in all where there are as many, in the order given."""
    taken = {c.code for c in always}
    others = [c.code for c in concepts if c.code not in taken]
    lot = np.random.default_rng([seed, 4]).permutation(len(others))[: count - len(taken)]
    taken |= {others[i] for i in lot}
    return [c for c in concepts if c.code in taken]


def _is_art_or_data(path: str) -> bool:
    art = path.endswith((".png", ".svg"))
    folder = any(part in path for part in ("/64/", "/svg/", "/icons/"))  # not the sprite sheets
    return (art and folder) or path == "package/emoji.json"


def _slug(voice: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", voice)


def _subset(key: str, given: Sequence[str], valid: Sequence[str] | dict[str, Any]) -> None:
    for name in given:
        if name not in valid:
            raise ValueError(f"{key}: {name!r} must be one of {', '.join(valid)}")
    if len(set(given)) != len(given):
        raise ValueError(f"{key} = {list(given)} names something twice")
