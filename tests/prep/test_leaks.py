"""Leaks: what a held-out split shares with the others."""

from __future__ import annotations

import io
import re
import tracemalloc

from rich.console import Console

from mmfm_prep.leaks import LeakCounter, normalise, show_leaks


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


def shown(by_design: tuple[str, ...], counter: LeakCounter) -> str:
    console = Console(file=io.StringIO(), width=100)
    held_out = ["test", "val"]
    between = counter.between(held_out)
    show_leaks(counter.report(held_out), by_design, between, counter.ambiguous(), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_tells_leaks_from_what_is_meant() -> None:
    counter = LeakCounter()
    counter.add("train", "cat", image=b"cat", texts=["a cat"])
    counter.add("train", "dog", image=b"dog", texts=["a dog"])
    counter.add("test", "cat", image=b"cat, drawn anew", texts=["a cat"])
    text = shown(("text", "group"), counter)
    assert re.search(r"test +│ +1 │ 0 / 0 │ +– │ 1 / 0 │ 1 / 0", text)
    assert "No leak." in text
    assert "Shared by design: text and group." in text
    assert "LEAK into the held-out splits: 1 of test by text, 1 of test by group" in shown(
        (), counter
    )
    counter.add("test", "wolf", image=b"dog", texts=["a wolf"])
    assert "LEAK into the held-out splits: 1 of test by image\n" in shown(
        ("text", "group"), counter
    )


def test_without_held_out_splits_there_is_nothing_to_show() -> None:
    console = Console(file=io.StringIO())
    show_leaks({}, (), {}, {}, console)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""


def test_a_sample_takes_16_bytes_for_each_kind() -> None:
    counter = LeakCounter()
    tracemalloc.start()
    for number in range(20_000):
        counter.add("train", str(number), image=str(number).encode(), texts=[str(number)])
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 3 * 16 * 20_000 * 1.2  # image, text and group; arrays grow by an eighth


def test_what_held_out_splits_share_with_each_other() -> None:
    counter = LeakCounter()
    counter.add("train", "a", image=b"a", texts=["a"])
    counter.add("val", "b", image=b"b", texts=["a"])
    counter.add("val", "c", image=b"c", texts=["c"])
    for group in ("b", "d"):
        counter.add("test", group, image=b"b", texts=[f"new {group}"])
    assert counter.between(["val", "test"]) == {
        "val": {"image": 1, "group": 1},
        "test": {"image": 2, "group": 1},
    }
    assert counter.between(["val"]) == {}
    text = shown(("group",), counter)
    assert "val: shared with other held-out splits: 1 by image\n" in text
    assert "test: shared with other held-out splits: 2 by image\n" in text


def test_other_modalities_are_compared() -> None:
    counter = LeakCounter()
    counter.add("train", "a", others={"video": b"1"})
    counter.add("test", "b", others={"video": b"1"})
    assert counter.report(["test"])["test"]["video"] == {
        "same_group": 0, "other_group": 1, "of": 1,
    }  # fmt: skip
    told = shown((), counter)
    assert "video" in told
    assert "1 of test by video" in told
