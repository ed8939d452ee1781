"""What a model got wrong, sample by sample, as evaluation tasks tell it and pages show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Span = tuple[str, int, int]
"""(type, place of the first token, place behind the last)."""


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """What a model got wrong: of the sample `id` in `source`, in words what is right and what it
    said. `wrong`: how wrong that is, by which mistakes of one task are sorted.

    `spans`: "right" and "said" ▶ the marked tokens of the sample's text. `beside`: what it is ▶ the
    id of another sample to look at, in `beside_source`.
    """

    source: str
    id: str
    right: str
    said: str
    wrong: float
    spans: Mapping[str, list[Span]] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)
    beside_source: str | None = None


def worst(wrong: NDArray[Any], most: int) -> list[int]:
    """The places of the largest of `wrong` [n] that are above 0, at most so many, the largest
    first.
    """
    order = np.argsort(-wrong, kind="stable")[:most]
    return [int(i) for i in order if wrong[i] > 0]
