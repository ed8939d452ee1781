"""What is near in one call, for tests."""

from __future__ import annotations

from mmfm_prep.filters.options import NearIndex


def add(index: NearIndex, number: int, signature: bytes) -> int | None:
    """The number of the first that is near; else this one is remembered."""
    found = index.find(signature)
    if found is None:
        index.remember(number, signature)
    return found
