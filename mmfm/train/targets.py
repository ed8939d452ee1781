"""Settings of a head that follow from the targets of the training data, worked out before it is
built, so that the checkpoint's recipe holds them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mmfm.config import ConfigError
from mmfm.data.facts import read_facts, visible
from mmfm.train.recipe import FinetuneConfig
from mmfm.types import Label


def settle_head(recipe: FinetuneConfig, label: Label | None) -> None:
    """Let the head's settings, where they have a `settle`, see the targets of all samples."""
    settle = getattr(recipe.head, "settle", None)
    if settle is None or label is None:
        return
    try:
        settle(targets(recipe, label))
    except ValueError as error:
        raise ConfigError(f"head: {error}") from None


def targets(recipe: FinetuneConfig, label: Label) -> Iterator[tuple[str, ...] | tuple[float, ...]]:
    """Of each sample of the training data its classes or its number, () where it has none."""
    for _, manifest, _ in recipe.data.open_sources():
        facts = read_facts(manifest)
        values = facts.values(label.field)
        for place in np.flatnonzero(visible(manifest)):
            if label.kind == "number":
                number = facts.numbers[place].get(label.field)
                yield () if number is None else (number,)
            else:
                yield values[place]
