"""What stays of equal and nearly equal samples, and into which split it goes."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from mmfm_prep.filters.options import Filters, Near
from mmfm_prep.making.choose import Choice
from mmfm_prep.making.draft import LeftOut, Made
from mmfm_prep.sample import Sample


def made(number: int, split: str = "", time: float | None = None, group: str = "", **has) -> Made:
    """`has`: kind ▶ what stands for its content; `near_image`: a signature."""
    signatures = {"image": has.pop("near_image")} if "near_image" in has else {}
    digests = {kind: hashlib.sha256(str(v).encode()).digest()[:12] for kind, v in has.items()}
    sample = Sample(
        key=str(number), id=str(number), group=group or str(number), split=split,
        texts={"en": ["a"]}, digests=digests,
    )  # fmt: skip
    return Made(f"line {number}", sample, time, signatures, {})


def choose(items: list[Made | LeftOut], **options) -> list[str]:
    """Splits, or reasons."""
    default = {
        "shares": {"train": 0.5, "val": 0.5},
        "seed": 0,
        "split_by": "group",
        "drop_leaks": False,
        "filters": Filters(),
    }
    chosen = Choice(**default | options).choose(lambda: items)
    return [c.reason if isinstance(c, LeftOut) else c for c in chosen]


def test_without_filters_all_stay() -> None:
    items = [made(1, "train", image=1), LeftOut("x", "is broken"), made(2, "val", image=1)]
    assert choose(items) == ["train", "is broken", "val"]


def test_of_duplicates_the_first_stays_by_the_kinds_that_are_named() -> None:
    items = [
        made(1, "train", image=1, text=1),
        made(2, "train", image=1, text=2),
        made(3, "train", image=3, text=1),
        made(4, "train", text=1),
    ]
    again = "picture is there already"
    assert choose(items, filters=Filters(duplicates=["image"])) == [
        "train",
        again,
        "train",
        "train",
    ]
    text = "text is there already"
    assert choose(items, filters=Filters(duplicates=["image", "text"])) == [
        "train", again, text, text,
    ]  # fmt: skip


def test_what_is_left_out_hides_nothing() -> None:
    """The text of a duplicate picture is not there."""
    items = [
        made(1, "train", image=1, text=1),
        made(2, "train", image=1, text=2),
        made(3, "train", image=3, text=2),
    ]
    filters = Filters(duplicates=["image", "text"])
    assert choose(items, filters=filters) == ["train", "picture is there already", "train"]


def test_a_held_out_one_stays() -> None:
    items = [made(1, "train", image=1), made(2, "val", image=1), made(3, "test", image=1)]
    again = "picture is there already"
    assert choose(items, filters=Filters(duplicates=["image"])) == [again, "val", again]


def test_leaks_are_dropped_from_train_only() -> None:
    items = [
        made(1, "train", image=1, text=1),
        made(2, "train", image=2, text=1),
        made(3, "train", image=2, text=3),
        made(4, "val", image=4, text=3),
        made(5, "test", image=1, text=5),
        made(6, "val", image=4, text=6),
    ]
    assert choose(items, drop_leaks=True) == [
        "picture is also held out", "train", "text is also held out", "val", "test", "val",
    ]  # fmt: skip


def test_near_duplicates_are_told_from_the_rest() -> None:
    near = [bytes(8), b"\1" + bytes(7), b"\xff" * 8]
    items = [made(i, "train", image=i, near_image=signature) for i, signature in enumerate(near)]
    reason = "picture is nearly one that is there"
    assert choose(items, filters=Filters(near=Near(image=1))) == ["train", reason, "train"]
    items[1].sample.split = "val"
    assert choose(items, filters=Filters(near=Near(image=1))) == [reason, "val", "train"]


def test_what_is_left_out_is_near_to_nothing() -> None:
    """The second is refused for its text, so the third's picture is the first of its kind."""
    one, other = bytes(8), b"\xff" * 8
    items = [made(1, "train", near_image=one), made(2, "train", near_image=other)]
    items.append(made(3, "train", near_image=other))
    for number, item in enumerate(items):
        item.signatures["text"] = bytes([number // 2]) * 128
    filters = Filters(near=Near(image=1, text=0.9))
    assert choose(items, filters=filters) == ["train", "text is nearly one that is there", "train"]


def test_by_time_the_newest_are_held_out() -> None:
    items: list[Made | LeftOut] = [made(i, time=float(100 - i)) for i in range(10)]
    items += [made(10), made(11, split="test"), LeftOut("x", "is broken")]
    chosen = choose(items, split_by="time", shares={"train": 0.7, "val": 0.2, "test": 0.1})
    assert chosen == ["test", "val", "val", *["train"] * 7, "time is missing", "test", "is broken"]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 50)), min_size=1, max_size=60))
def test_no_group_straddles_and_no_split_is_followed_by_an_older_one(
    events: list[tuple[int, int]],
) -> None:
    items = [made(i, time=float(time), group=f"g{g}") for i, (g, time) in enumerate(events)]
    for split_by in ("time", "group"):
        chosen = choose(items, split_by=split_by)
        by_group: dict[int, set[str]] = {}
        for (group, _), split in zip(events, chosen, strict=True):
            by_group.setdefault(group, set()).add(split)
        assert all(len(splits) == 1 for splits in by_group.values())
    latest = {g: max(t for other, t in events if other == g) for g, _ in events}
    chosen = choose(items, split_by="time")
    train = [latest[g] for (g, _), split in zip(events, chosen, strict=True) if split == "train"]
    val = [latest[g] for (g, _), split in zip(events, chosen, strict=True) if split == "val"]
    assert max(train, default=-1) <= min(val, default=100)
