"""Entities in BIO tags, as conlleval and seqeval read them."""

from __future__ import annotations

from collections.abc import Sequence

Entity = tuple[str, int, int]
"""(type, place of the first token, place behind the last)."""

OUTSIDE = "O"


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of one text in their order.

    What goes on (``I-person``) without having begun, or after another type, begins there: the
    convention of conlleval (Tjong Kim Sang and De Meulder 2003), so no sequence of tags is wrong.
    """
    found: list[Entity] = []
    start, kind = 0, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        mark, _, named = tag.partition("-")
        goes_on = mark == "I" and named == kind
        if kind and not goes_on:
            found.append((kind, start, place))
            kind = ""
        if named and not goes_on:
            start, kind = place, named
    return found


def repaired(tags: Sequence[str]) -> int:
    """How many of the tags go on with what hadn't begun."""
    before = [OUTSIDE, *tags]
    return sum(
        tag.startswith("I-") and last.partition("-")[2] != tag.partition("-")[2]
        for last, tag in zip(before, tags, strict=False)
    )
