"""Augmented texts beside the originals: their place, their marks, and what is left out."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from mmfm.config import ConfigError, from_dict
from mmfm_prep.augment.text import TextAugmentation
from mmfm_prep.augment.wordnet import WordNet
from mmfm_prep.leaks import normalise

TEXTS = {
    "en": ["a red car in the street", "Two  dogs, one ball"],
    "de": ["ein rotes Auto"],
    "en-GB": ["the red car"],
    "zh": ["红色的椅子"],
}


@pytest.fixture(autouse=True)
def synonyms(monkeypatch: pytest.MonkeyPatch) -> None:
    senses = {"car": ("noun", 1), "red": ("adj", 2), "dog": ("noun", 3)}
    sets = {
        ("noun", 1): ["car", "auto", "machine"],
        ("adj", 2): ["red", "ruby"],
        ("noun", 3): ["dog", "hound"],
    }
    found = WordNet(senses, sets)
    monkeypatch.setattr("mmfm_prep.augment.wordnet.load", lambda folder: found)


def test_originals_come_first_and_what_follows_is_marked() -> None:
    augmentation = TextAugmentation(synonyms=2, swaps=1, deletions=1)
    made, marks = augmentation.apply(TEXTS, seed=3)
    assert list(made) == list(TEXTS)
    for language, originals in TEXTS.items():
        texts = made[language]
        assert texts[: len(originals)] == originals
        assert set(marks.get(language, {})) == set(map(str, range(len(originals), len(texts))))
        assert len({normalise(text) for text in texts}) == len(texts)
    assert list(marks["en"].values()) == [
        "synonyms", "synonyms", "synonyms", "swap", "swap", "deletion", "deletion",
    ]  # fmt: skip
    assert "Two  hounds, one ball" in made["en"]  # the only one there is of this text
    assert list(marks["de"].values()) == ["swap", "deletion"]
    assert list(marks["en-GB"].values()) == ["synonyms", "synonyms", "swap", "deletion"]
    assert "zh" not in marks
    assert TEXTS["en"] == ["a red car in the street", "Two  dogs, one ball"]


def test_what_could_not_be_made_is_what_was_asked_less_what_is_there() -> None:
    augmentation = TextAugmentation(synonyms=2, swaps=1)
    assert augmentation.asked(TEXTS) == {"synonyms": 6, "swap": 5}
    _, marks = augmentation.apply(TEXTS, seed=0)
    hows = [how for places in marks.values() for how in places.values()]
    assert {how: hows.count(how) for how in set(hows)} == {"synonyms": 5, "swap": 4}


def test_the_seed_alone_decides() -> None:
    augmentation = pickle.loads(pickle.dumps(TextAugmentation(synonyms=1, swaps=1, deletions=1)))
    assert augmentation.apply(TEXTS, seed=5) == augmentation.apply(TEXTS, seed=5)
    variants = {str(augmentation.apply(TEXTS, seed=seed)) for seed in range(8)}
    assert len(variants) > 4


def test_a_language_does_not_depend_on_the_others() -> None:
    augmentation = TextAugmentation(swaps=1)
    alone, _ = augmentation.apply({"de": TEXTS["de"]}, seed=1)
    assert augmentation.apply(TEXTS, seed=1)[0]["de"] == alone["de"]


def test_no_copy_of_a_text_that_is_there() -> None:
    made, marks = TextAugmentation(swaps=3).apply({"en": ["red car", "Car  RED"]}, seed=0)
    assert made == {"en": ["red car", "Car  RED"]}
    assert marks == {}


def test_without_options_nothing_happens() -> None:
    assert not TextAugmentation().active
    assert TextAugmentation().apply(TEXTS, seed=0) == (TEXTS, {})
    assert TextAugmentation(deletions=1).active


def test_from_a_config() -> None:
    words = {"synonyms": 1, "back_translations": [{"forward": "a", "back": "b"}], "cache": "c"}
    augmentation = from_dict(TextAugmentation, words)
    assert augmentation.back_translations[0].forward == "a"
    assert augmentation.cache == Path("c")
    for wrong in ({"swaps": -1}, {"share": 0}, {"share": 1.5}, {"back_translations": [{}]}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            from_dict(TextAugmentation, wrong)
