"""Which texts go into the shards: by length, language, script and personal data.

    mmfm data make table shop.csv data/shop 'texts.en=[title]' \\
        filters.text.min_chars=5 filters.text.personal=mask
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Literal

from mmfm_prep.errors import PrepError
from mmfm_prep.filters import Unwanted, language, personal

Personal = Literal["keep", "drop", "mask"]


@dataclass(kw_only=True)
class TextFilter:
    """What a text must be to be kept; nothing is asked of it unless an option is set.

    `min_chars` … `max_words`: its length, in characters and in words between white space.
    `languages`: ISO 639-1 codes; the detector must give them, together, a probability of at least
    `language_confidence`. Texts that have fewer than `language_min_chars`, masks aside, are kept
    undetected: too short to tell.
    `scripts`: Unicode's names; 90 % of the letters must be of them. `personal`: what becomes of
    texts with e-mail addresses, phone, card and account numbers. `phone_region`: the country (ISO
    3166, ``DE``) whose phone numbers are found without their ``+49``.

    Lengths and languages are those of the text that is kept, after masking.
    """

    min_chars: int | None = None
    max_chars: int | None = None
    min_words: int | None = None
    max_words: int | None = None
    languages: list[str] = field(default_factory=list)
    language_confidence: float = 0.05
    language_min_chars: int = 15
    scripts: list[str] = field(default_factory=list)
    personal: Personal = "keep"
    phone_region: str | None = None

    def __post_init__(self) -> None:
        for unit in ("chars", "words"):
            least, most = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            for name, value in ((f"min_{unit}", least), (f"max_{unit}", most)):
                if value is not None and value < 1:
                    raise ValueError(f"{name} = {value} must be at least 1")
            if least is not None and most is not None and least > most:
                raise ValueError(f"min_{unit} = {least} is more than max_{unit} = {most}")
        if not 0 < self.language_confidence <= 1:
            raise ValueError(
                f"language_confidence = {self.language_confidence} must be above 0 and at most 1"
            )
        if self.language_min_chars < 0:
            raise ValueError(f"language_min_chars = {self.language_min_chars} must not be below 0")
        for name in ("languages", "scripts"):
            if len(set(given := getattr(self, name))) != len(given):
                raise ValueError(f"{name} = {given} names something twice")
        if self.languages:
            language.check_languages(self.languages)
        if self.scripts:
            language.check_scripts(self.scripts)
        if self.personal not in ("keep", "drop", "mask"):
            raise ValueError(f"personal = {self.personal!r} must be keep, drop or mask")
        if self.phone_region is not None and self.personal == "keep":
            raise ValueError("phone_region: is of use only with personal=drop or personal=mask")
        if self.personal != "keep":
            for module in ("phonenumbers", "stdnum"):
                if importlib.util.find_spec(module) is None:
                    raise PrepError(f"personal needs {module}: pip install 'mmfm[filters]'")
            personal.check_region(self.phone_region)

    @property
    def active(self) -> bool:
        """Whether anything is asked of texts."""
        lengths = (self.min_chars, self.max_chars, self.min_words, self.max_words)
        asked = any(value is not None for value in lengths)
        return asked or bool(self.languages or self.scripts) or self.personal != "keep"

    def apply(self, text: str) -> str:
        """The text to keep, masked where that is asked; `Unwanted` where it is not to be kept."""
        if self.personal == "drop":
            for found in personal.find(text, self.phone_region):
                raise Unwanted(f"text has personal data: {found.kind}")
        elif self.personal == "mask":
            text = personal.mask(text, self.phone_region)
        self._check_length(text)
        if self.scripts and not language.in_scripts(text, self.scripts):
            raise Unwanted(f"text not in script {', '.join(self.scripts)}")
        plain = personal.without_masks(text).strip()
        told = self.languages if len(plain) >= self.language_min_chars else None
        if told and not language.in_languages(plain, told, self.language_confidence):
            raise Unwanted(f"text not in {', '.join(told)}")
        return text

    def _check_length(self, text: str) -> None:
        if self.min_chars is not None and len(text) < self.min_chars:
            raise Unwanted(f"text shorter than {_number(self.min_chars, 'character')}")
        if self.max_chars is not None and len(text) > self.max_chars:
            raise Unwanted(f"text longer than {_number(self.max_chars, 'character')}")
        if self.min_words is not None and len(text.split()) < self.min_words:
            raise Unwanted(f"text of fewer than {_number(self.min_words, 'word')}")
        if self.max_words is not None and len(text.split()) > self.max_words:
            raise Unwanted(f"text of more than {_number(self.max_words, 'word')}")


def _number(count: int, unit: str) -> str:
    return f"{count} {unit}{'' if count == 1 else 's'}"
