"""Synonyms, swaps and deletions: what changes and what stays."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfm_prep.augment import words

SYNONYMS = {
    "red": ("scarlet", "ruby"), "apple": ("fruit", "orchard apple"), "hotel": ("inn", "house"),
    "write": ("pen",), "iphone": ("phone",), "e": ("x",), "mail": ("post",),
}  # fmt: skip


def with_synonyms(text: str, share: float = 1.0, seed: int = 0) -> str:
    lot = random.Random(seed)
    return words.with_synonyms(text, share, lot, lambda word: SYNONYMS.get(word, ()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write it!", {"Pen it!"}),
        ("a red thing", {"a scarlet thing", "a ruby thing"}),
        ("RED, red", {"SCARLET, scarlet", "SCARLET, ruby", "RUBY, scarlet", "RUBY, ruby"}),
        ("an apple", {"an orchard apple"}),
        ("the apple", {"the fruit", "the orchard apple"}),
        ("a hotel", {"a house"}),  # "a inn" would be wrong
        ("my iPhone", {"my iPhone"}),
        ("[e-mail] e-mail", {"[e-mail] e-mail"}),
        ("nothing here", {"nothing here"}),
        ("", {""}),
    ],
)
def test_synonyms(text: str, expected: set[str]) -> None:
    assert {with_synonyms(text, seed=seed) for seed in range(40)} == expected


def test_stop_words_stay() -> None:
    lot = random.Random(0)
    assert words.with_synonyms("the one in it", 1.0, lot, lambda word: ("x",)) == "the one in it"


def test_share_of_the_words() -> None:
    text = " ".join(["red"] * 20)
    changed = with_synonyms(text, share=0.2).split()
    assert Counter(word == "red" for word in changed) == {True: 16, False: 4}
    assert Counter(w == "red" for w in with_synonyms("red red red", 0.1).split())[False] == 1
    assert len(words.thinned(text, 0.2, random.Random(0)).split()) == 16
    distinct = [f"w{i}" for i in range(20)]
    moved = words.swapped(" ".join(distinct), 0.1, random.Random(1)).split()
    assert sum(a != b for a, b in zip(moved, distinct, strict=True)) in (3, 4)  # two swaps


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two dogs", {"dogs two"}),
        ("Hi, you!", {"you, Hi!"}),
        ("at 3.50 o'clock", {"3.50 at o'clock", "o'clock 3.50 at", "at o'clock 3.50"}),
        ("[e-mail] me", {"me [e-mail]"}),
        ("नमस्ते दुनिया", {"दुनिया नमस्ते"}),  # vowel signs stay with their letters
        ("红色的椅子", {"红色的椅子"}),
        ("dog", {"dog"}),
        ("!?", {"!?"}),
    ],
)
def test_swaps(text: str, expected: set[str]) -> None:
    assert {words.swapped(text, 0.1, random.Random(seed)) for seed in range(30)} == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two dogs", {"two", "dogs"}),
        ("a dog, a cat.", {"dog, a cat.", "a, a cat.", "a dog, cat.", "a dog, a."}),
        ("dog", {"dog"}),
        ("", {""}),
    ],
)
def test_deletions(text: str, expected: set[str]) -> None:
    assert {words.thinned(text, 0.1, random.Random(seed)) for seed in range(60)} == expected


@given(st.text(max_size=60), st.floats(0.01, 1), st.integers(0, 99))
def test_any_text(text: str, share: float, seed: int) -> None:
    swapped = words.swapped(text, share, random.Random(seed))
    assert Counter(swapped) == Counter(text)
    thinned = words.thinned(text, share, random.Random(seed))
    assert not Counter(thinned) - Counter(text)
    if re.search(r"\w", text):
        assert thinned


def test_the_lot_alone_decides() -> None:
    text = "one two three four five six"
    for change in (words.swapped, words.thinned):
        made = [change(text, 0.3, random.Random(seed)) for seed in (1, 1, 2, 3, 4)]
        assert made[0] == made[1]
        assert len(set(made)) > 2
