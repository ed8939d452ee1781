"""A small tri-modal set that can be learned, made from nothing in seconds.

    mmfm data make synthetic data/synthetic

Hidden attributes (shape, colour, count, size) are drawn as a small picture, said in a caption
(English and German) and played as a sound: colour is the pitch, shape the timbre, count the number
of beeps, size their length. Place, background, angle, detune, phase and noise vary and mean
nothing. Some samples lack a modality. The combinations in `val` are never seen in `train`. A
tokenizer trained on the captions goes into the folder ``tokenizer``.

With ``questions=true`` the text of a sample is a question about one attribute instead, and the
label ``answer`` what is right.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from mmfm.data.tokenizer import train_bpe
from mmfm_prep import pictures, sound
from mmfm_prep.registries.things import Thing, all_things, captions, draw, play
from mmfm_prep.sample import Sample
from mmfm_prep.sources.base import Source


@dataclass(kw_only=True)
class Config(Source):
    """Options of the synthetic set."""

    licence: ClassVar[str] = "CC0-1.0"

    train_samples: int = 2048
    val_samples: int = 512
    image_size: int = 32
    sample_rate: int = 8000
    seconds: float = 0.5
    val_combinations: float = 0.2
    """The share of attribute combinations kept for `val`."""
    sets: dict[str, float] = field(
        default_factory=lambda: {
            "audio+image+text": 0.55,
            "image+text": 0.15,
            "audio+text": 0.15,
            "audio+image": 0.15,
        }
    )
    """The share of each modality set; any of the seven may be named."""
    questions: bool = False
    vocab_size: int = 400
    samples_per_shard: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        possible = {"+".join(c) for n in (1, 2, 3) for c in itertools.combinations(_MODALITIES, n)}
        for name, share in self.sets.items():
            if name not in possible:
                raise ValueError(f"sets: {name!r} must be one of {', '.join(sorted(possible))}")
            if not share >= 0:
                raise ValueError(f"sets.{name} = {share}: must be 0 or more")
        if not sum(self.sets.values()) > 0:
            raise ValueError("sets: the shares must not all be 0")
        if not 0 < self.val_combinations < 1:
            raise ValueError(f"val_combinations = {self.val_combinations}: must be between 0 and 1")
        if self.train_samples < 1 or self.val_samples < 1:
            raise ValueError("train_samples and val_samples must be 1 or more")
        if self.image_size < 16 or self.seconds < 0.1 or self.sample_rate < 4000:
            raise ValueError("image_size is at least 16, seconds 0.1, sample_rate 4000")

    def total(self) -> int:
        return self.train_samples + self.val_samples

    def held_out(self) -> tuple[str, ...]:
        return ("val",)

    def samples(self) -> Iterator[Sample]:
        things = all_things()
        np.random.default_rng([self.seed, 0]).shuffle(things)
        held = max(1, round(self.val_combinations * len(things)))
        for number, (split, pool, size) in enumerate(
            (
                ("train", things[held:], self.train_samples),
                ("val", things[:held], self.val_samples),
            )
        ):
            rng = np.random.default_rng([self.seed, 1, number])
            sets = _exact_shares(self.sets, size)
            rng.shuffle(sets)
            # Every combination equally often, in random order
            order = np.concatenate(
                [rng.permutation(len(pool)) for _ in range(-(-size // len(pool)))]
            )
            for i in range(size):
                yield self._sample(split, i, pool[order[i]], sets[i].split("+"))

    def finish(self, folder: Path) -> None:
        things = all_things()
        all_texts = [t for thing in things for texts in captions(thing).values() for t in texts]
        if self.questions:
            all_texts += [t for phrases in _QUESTIONS.values() for t in phrases]
        train_bpe(all_texts, self.vocab_size, folder / "tokenizer")

    def _sample(self, split: str, number: int, thing: Thing, modalities: list[str]) -> Sample:
        # One generator a sample and modality: its looks don't depend on what else it has.
        seeds = [self.seed, 2, split == "val", number]
        image = audio = texts = None
        if "image" in modalities:
            picture = draw(thing, self.image_size, np.random.default_rng([*seeds, 0]))
            image = pictures.png(picture)
        if "audio" in modalities:
            wave = play(thing, self.sample_rate, self.seconds, np.random.default_rng([*seeds, 1]))
            audio = sound.encode(wave, self.sample_rate)
        labels = {"shape": thing.shape, "colour": thing.colour}
        if "text" in modalities and self.questions:
            asked = np.random.default_rng([*seeds, 3])
            about = str(asked.choice(list(_QUESTIONS)))
            texts = {"en": [str(asked.choice(_QUESTIONS[about]))]}
            labels["answer"] = str(getattr(thing, about))
        elif "text" in modalities:
            texts = captions(thing)
            for phrases in texts.values():
                np.random.default_rng([*seeds, 2]).shuffle(phrases)
        return Sample(
            key=f"{number:06d}",
            id=f"synthetic/{split}/{number:06d}",
            group=thing.group,
            split=split,
            image=image,
            audio=audio,
            texts=texts,
            labels=labels,
            source="synthetic",
            licence=self.licence,
        )


_QUESTIONS = {
    "shape": ["what shape is it?", "which shape do you see?"],
    "colour": ["what colour is it?", "which colour does it have?"],
    "number": ["how many are there?", "what is their number?"],
}
_MODALITIES = ("audio", "image", "text")


def _exact_shares(shares: dict[str, float], size: int) -> list[str]:
    """`size` names in the proportions of `shares`, rounded by largest remainder."""
    total = sum(shares.values())
    exact = {name: size * share / total for name, share in shares.items()}
    counts = {name: math.floor(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda n: (counts[n] - exact[n], n))
    for name in by_remainder[: size - sum(counts.values())]:
        counts[name] += 1
    return [name for name, n in counts.items() for _ in range(n)]
