"""Texts with some words replaced, swapped or left out: EDA (Wei and Zou 2019).

    swapped("two dogs on a beach", 0.2, random.Random(0))     # "two beach on a dogs"

A word is a run of letters and digits with the hyphens and apostrophes inside, or a number. What
stands between words stays where it is. Where a language isn't spaced (Chinese, Thai) a word is all
between two marks.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import regex  # type: ignore[import-untyped]

from mmfm_prep.filters.personal import MASK

# Marks too: without its vowel signs a Hindi word would be torn.
_LETTERS = r"[\p{L}\p{M}\p{N}]+"
_WORD = regex.compile(rf"{MASK.pattern}|\d+(?:[.,:/]\d+)+|{_LETTERS}(?:['’-]{_LETTERS})*")
_VOWELS = "aeiou"


def swapped(text: str, share: float, lot: random.Random) -> str:
    """`text` with two words changing places, as often as `share` of its words, at least once."""
    words = list(_WORD.finditer(text))
    if len(words) < 2:
        return text
    order = list(range(len(words)))
    for _ in range(_number(share, len(words))):
        i, j = lot.sample(range(len(words)), 2)
        order[i], order[j] = order[j], order[i]
    return _rebuilt(text, words, {i: words[j][0] for i, j in enumerate(order)})


def thinned(text: str, share: float, lot: random.Random) -> str:
    """`text` without `share` of its words: one at least goes, one at least stays.

    EDA drops each word with this probability, which leaves most captions as they are.
    """
    words = list(_WORD.finditer(text))
    if len(words) < 2:
        return text
    number = min(_number(share, len(words)), len(words) - 1)
    for i in sorted(lot.sample(range(len(words)), number), reverse=True):
        before, after = text[: words[i].start()], text[words[i].end() :]
        text = before.rstrip() + after if before.rstrip() != before else before + after.lstrip()
    return text.strip()


def with_synonyms(
    text: str, share: float, lot: random.Random, synonyms: Callable[[str], tuple[str, ...]]
) -> str:
    """`text` with `share` of its words, at least one, replaced by one of their `synonyms`.

    Stop words, masks of personal data and words in mixed case (names of products) stay. Capitals
    are kept, and after "a" or "an" only synonyms are taken that go with it.
    """
    words = list(_WORD.finditer(text))
    choices: dict[int, list[str]] = {}
    for i, word in enumerate(words):
        if not MASK.fullmatch(word[0]) and word[0].lower() not in _stop_words():
            article = words[i - 1][0].lower() if i else ""
            found = synonyms(word[0].lower()) if _case(word[0]) else ()
            if fitting := [s for s in found if _fits(article, word[0], s)]:
                choices[i] = fitting
    changed = sorted(lot.sample(sorted(choices), min(_number(share, len(words)), len(choices))))
    new = {i: _case(words[i][0])(lot.choice(choices[i])) for i in changed}  # type: ignore[misc]
    return _rebuilt(text, words, new)


def _number(share: float, words: int) -> int:
    return max(1, round(share * words))


def _rebuilt(text: str, words: list[Any], new: dict[int, str]) -> str:
    parts, end = [], 0
    for i, word in enumerate(words):
        parts += [text[end : word.start()], new.get(i, word[0])]
        end = word.end()
    return "".join([*parts, text[end:]])


def _case(word: str) -> Callable[[str], str] | None:
    """What gives another word the capitals of this one; None for mixed case."""
    if word.islower():
        return str
    if word.istitle():
        return lambda other: other[:1].upper() + other[1:]
    return str.upper if word.isupper() else None


def _fits(article: str, word: str, synonym: str) -> bool:
    """By letters. "hour" and "unit" sound otherwise: what begins with h or u goes with no other."""
    if article not in ("a", "an"):
        return True
    first, other = word[0].lower(), synonym[0]
    if first == other:
        return True
    return not {first, other} & {"h", "u"} and (first in _VOWELS) == (other in _VOWELS)


@cache
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)
