"""Texts beside those that a sample has, each marked with how it was made.

    mmfm data make table shop.csv data/shop 'texts.en=[title]' augment.synonyms=1 augment.swaps=1

The originals keep their place and their bytes; what is made follows them in their language.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mmfm_prep.augment import wordnet, words
from mmfm_prep.augment.back_translation import BackTranslation
from mmfm_prep.leaks import normalise
from mmfm_prep.sample import Texts

Marks = dict[str, dict[str, str]]
"""Language ▶ place of a text among its texts (as JSON has it: ``"3"``) ▶ how it was made."""

_TRIES = 8  # for a text that isn't there yet


@dataclass(kw_only=True)
class TextAugmentation:
    """How many further texts each text gets: with `synonyms` (English: ``en``, ``en-GB``), words
    in `swaps`, words left out (`deletions`), and one from each of `back_translations`.

    `share`: of the words that change. `cache`: where WordNet's package stays. A copy that would
    equal a text of the language, but for case and white space, is not added.
    """

    synonyms: int = 0
    swaps: int = 0
    deletions: int = 0
    back_translations: list[BackTranslation] = field(default_factory=list)
    share: float = 0.1
    cache: Path = Path("cache")

    def __post_init__(self) -> None:
        for name in ("synonyms", "swaps", "deletions"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)} must not be below 0")
        if not 0 < self.share <= 1:
            raise ValueError(f"share = {self.share} must be above 0 and at most 1")

    @property
    def active(self) -> bool:
        """Whether any text is made."""
        return bool(self.synonyms or self.swaps or self.deletions or self.back_translations)

    def prepare(self) -> None:
        """Fetch and try what is needed, in one process, before many ask for it. PrepError where
        something is missing.
        """
        if self.synonyms:
            wordnet.load(self.cache)
        for translation in self.back_translations:
            translation.apply(["a"])

    def asked(self, texts: Texts) -> dict[str, int]:
        """How ▶ how many texts are asked for: what `apply` made less is what had to be left out."""
        counts: dict[str, int] = {}
        for language, phrases in texts.items():
            for how, number, _ in self._ways(language):
                counts[how] = counts.get(how, 0) + number * len(phrases)
            if translations := self._translations(language):
                number = len(translations) * len(phrases)
                counts["back_translation"] = counts.get("back_translation", 0) + number
        return counts

    def apply(self, texts: Texts, seed: int) -> tuple[Texts, Marks]:
        """`texts` with what is made from them, and which those are; the same for the same `seed`
        and `texts`.
        """
        out: Texts = {}
        marks: Marks = {}
        for language, phrases in texts.items():
            out[language] = list(phrases)
            there = {normalise(phrase) for phrase in phrases}
            for how, text in self._made(language, phrases, seed, there):
                marks.setdefault(language, {})[str(len(out[language]))] = how
                out[language].append(text)
        return out, marks

    def _made(
        self, language: str, phrases: list[str], seed: int, there: set[str]
    ) -> Iterator[tuple[str, str]]:
        def is_new(text: str) -> bool:
            new = bool(plain := normalise(text)) and plain not in there
            there.add(plain)
            return new

        for how, number, change in self._ways(language):
            for place, phrase in enumerate(phrases):
                lot = random.Random(f"{seed}/{language}/{how}/{place}")
                for _ in range(number):
                    tries = (change(phrase, self.share, lot) for _ in range(_TRIES))
                    text = next(filter(is_new, tries), None)
                    if text is None:
                        break
                    yield how, text
        for translation in self._translations(language):
            for text in translation.apply(phrases):
                if text is not None and is_new(text):
                    yield "back_translation", text

    def _ways(
        self, language: str
    ) -> Iterator[tuple[str, int, Callable[[str, float, random.Random], str]]]:
        if self.synonyms and language.split("-")[0] == "en":
            yield "synonyms", self.synonyms, self._with_synonyms
        if self.swaps:
            yield "swap", self.swaps, words.swapped
        if self.deletions:
            yield "deletion", self.deletions, words.thinned

    def _translations(self, language: str) -> list[BackTranslation]:
        return [one for one in self.back_translations if one.language == language]

    def _with_synonyms(self, text: str, share: float, lot: random.Random) -> str:
        synonyms = wordnet.load(self.cache).synonyms
        return words.with_synonyms(text, share, lot, synonyms)
