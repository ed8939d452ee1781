"""Leaks: what a held-out split shares with the others."""

from __future__ import annotations

from mmfm_prep.leaks import LeakCounter, normalise


def test_leaks_are_told_apart_by_group() -> None:
    counter = LeakCounter()
    counter.add("train", "cat", image=b"cat", texts=["A cat", "animal"])
    counter.add("train", "dog", audio=b"woof", texts=["a dog"])
    counter.add("test", "cat", image=b"cat", texts=["a  CAT"])
    counter.add("test", "wolf", image=b"wolf", audio=b"woof", texts=["a wolf", "animal"])
    assert counter.report(["test", "not there"]) == {
        "test": {
            "image": {"same_group": 1, "other_group": 0, "of": 2},
            "audio": {"same_group": 0, "other_group": 1, "of": 1},
            "text": {"same_group": 1, "other_group": 0, "of": 2},
            "group": {"same_group": 1, "other_group": 0, "of": 2},
        }
    }


def test_held_out_splits_are_not_compared_with_each_other() -> None:
    counter = LeakCounter()
    counter.add("val", "a", image=b"1")
    counter.add("test", "a", image=b"1")
    counter.add("train", "b", image=b"2")
    report = counter.report(["val", "test"])
    assert report["val"]["image"] == {"same_group": 0, "other_group": 0, "of": 1}


def test_ambiguous_samples_are_counted_within_a_split() -> None:
    counter = LeakCounter()
    for group in ("red circle", "blue circle", "blue circle"):
        counter.add("black", group, image=b"circle", texts=[group])
    counter.add("colour", "red circle", image=b"red")
    assert counter.ambiguous() == {"black": {"image": 3}}


def test_normalise() -> None:
    assert normalise(" Ｓｔｒａßｅ\n 5 ") == normalise("STRASSE 5")
