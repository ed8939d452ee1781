"""Settings of a head that follow from the targets of the training data, worked out before it is
built, so that the checkpoint's recipe holds them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mmfm.config import ConfigError
from mmfm.data.facts import labels_of, read_facts, visible
from mmfm.data.labels import usable_number
from mmfm.train.recipe import FinetuneConfig
from mmfm.types import Label


def check_classes(recipe: FinetuneConfig, label: Label | None) -> None:
    """ConfigError where the training data have no label, or all the same: nothing to tell apart.

    Shards are read one after the other, until two classes were met; those at a URL are not.
    """
    if label is None or label.kind not in ("class", "set") or not label.names:
        return
    met: set[str] = set()
    for _, manifest, _ in recipe.data.open_sources():
        if manifest.remote is not None:
            return
        for values in labels_of(manifest, label.field):
            met.update(values)
            if len(met) > 1 or (met and label.kind == "set"):
                return
    told = f"but {met.pop()!r}: there is nothing to tell apart" if met else "at all"
    raise ConfigError(f"head.label = {label.field!r}: no sample of data.sources has a label {told}")


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
        places = np.flatnonzero(visible(manifest)).tolist()
        if label.kind != "number":
            values = facts.values(label.field)
            yield from (values[place] for place in places)
            continue
        for place in places:
            value = facts.numbers[place].get(label.field)
            number = usable_number(value)
            if value is not None and number is None:
                raise ValueError(
                    f"sample {facts.names[place]!r}: numbers.{label.field} = {repr(value)[:100]} "
                    "is no finite number"
                )
            yield () if number is None else (number,)
