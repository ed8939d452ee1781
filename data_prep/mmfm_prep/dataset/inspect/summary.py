"""What a dataset holds, counted: for ``mmfm data inspect`` and ``mmfm data stats``.

Headers of pictures and sounds are read, nothing is decoded. Numbers are kept in arrays of machine
values: a million samples take some tens of MB.
"""

from __future__ import annotations

import io
import re
import warnings
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import soundfile
from PIL import Image

from mmfm_prep.dataset.reading import AUDIO_ENDINGS, IMAGE_ENDINGS, Found
from mmfm_prep.leaks import LeakCounter
from mmfm_prep.pictures import FORMATS
from mmfm_prep.sample import all_texts, label_names

_WORD = re.compile(r"\w+")
KNOWN = {"json", "txt", *IMAGE_ENDINGS, *AUDIO_ENDINGS}


def _numbers() -> array[float]:
    return array("d")


@dataclass
class Cell:
    """What one split has of one modality set."""

    samples: int = 0
    bytes: int = 0


@dataclass
class Media:
    """Pictures or sounds of one split, a number for each: sides in pixels, or seconds and Hz."""

    width: array[float] = field(default_factory=_numbers)
    height: array[float] = field(default_factory=_numbers)
    seconds: array[float] = field(default_factory=_numbers)
    rates: Counter[int] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)


@dataclass
class Texts:
    """Texts of one language: their characters and words, and how often each word occurs."""

    characters: array[float] = field(default_factory=_numbers)
    words: array[float] = field(default_factory=_numbers)
    vocabulary: Counter[str] = field(default_factory=Counter)


@dataclass
class Summary:
    """Everything that is known; `add` a sample at a time."""

    cells: dict[tuple[str, str], Cell] = field(default_factory=lambda: defaultdict(Cell))
    media: dict[str, Media] = field(default_factory=lambda: defaultdict(Media))
    texts: dict[str, Texts] = field(default_factory=lambda: defaultdict(Texts))
    labels: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    histories: dict[str, array[float]] = field(default_factory=lambda: defaultdict(_numbers))
    groups: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    ignored: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)
    leaks: LeakCounter = field(default_factory=LeakCounter)

    def add(self, sample: Found) -> None:
        """Count one sample."""
        cell = self.cells[sample.split, sample.modality_set]
        cell.samples += 1
        cell.bytes += sum(map(len, sample.files.values()))
        if sample.metadata is None:
            self.unreadable["json"] += 1
        self.ignored.update(ending for ending in sample.files if ending not in KNOWN)
        if sample.image:
            self._add_image(self.media[sample.split], sample.image)
        if sample.audio:
            self._add_audio(self.media[sample.split], sample.audio)
        self._add_texts(sample.texts)
        if isinstance(history := sample.meta.get("history"), list):
            self.histories[sample.split].append(len(history))
        for label, values in label_names(sample.labels, sample.meta).items():
            self.labels[label].update(map(str, values))
        self.groups[sample.split].add(sample.group)
        self.leaks.add(
            sample.split,
            sample.group,
            image=sample.image,
            audio=sample.audio,
            texts=all_texts(sample.texts),
        )

    def _add_image(self, media: Media, data: bytes) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about sizes
                width, height = Image.open(io.BytesIO(data), formats=FORMATS).size
        except Exception:  # broken files make PIL raise almost anything
            self.unreadable["image"] += 1
            return
        media.width.append(width)
        media.height.append(height)

    def _add_audio(self, media: Media, data: bytes) -> None:
        try:
            info = soundfile.info(io.BytesIO(data))
        except soundfile.SoundFileError:
            self.unreadable["audio"] += 1
            return
        media.seconds.append(info.duration)
        media.rates[int(info.samplerate)] += 1
        media.channels[int(info.channels)] += 1

    def _add_texts(self, texts: Mapping[str, list[str]]) -> None:
        for language, phrases in texts.items():
            found = self.texts[language]
            for phrase in phrases:
                words = _WORD.findall(phrase.casefold())
                found.characters.append(len(phrase))
                found.words.append(len(words))
                found.vocabulary.update(words)
