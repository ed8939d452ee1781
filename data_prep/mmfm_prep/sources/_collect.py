"""Rows that are about the same thing, made one sample: `collect=true` of `table`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mmfm_prep.making.draft import Draft, LeftOut

_AGREE = ("image", "audio", "group", "split", "time", "labels", "meta")


def collected(drafts: Iterable[Draft | LeftOut]) -> Iterator[Draft | LeftOut]:
    """A draft for each id, where it first comes, with the texts of all that have it, each once.

    What disagrees about anything else is left out, whole. All drafts are held in memory.
    """
    found: dict[str, Draft | LeftOut] = {}
    for draft in drafts:
        if isinstance(draft, LeftOut):
            yield draft
            continue
        first = found.setdefault(draft.id, draft)
        if first is draft or isinstance(first, LeftOut):
            continue
        other = next((n for n in _AGREE if getattr(first, n) != getattr(draft, n)), None)
        if other:
            what = "numbers" if other == "meta" else other
            found[draft.id] = LeftOut(draft.place, f"rows of one id disagree about {what}")
            continue
        for language, texts in draft.texts.items():
            there = first.texts.setdefault(language, [])
            there += [text for text in dict.fromkeys(texts) if text not in there]
    yield from found.values()
