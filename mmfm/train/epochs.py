"""`train.epochs`: the length of a run in passes over its data.

    train: {epochs: 3}

An epoch is as many steps as there are samples in all sources, rounded up; with `replay` in the
run's own sources, whose share of the draws is the rest. `train.max_steps` is worked out from it as
soon as the recipe is read, so that schedules know it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, MutableMapping
from fractions import Fraction
from typing import Any

from mmfm.config import ConfigError, from_dict
from mmfm.data.manifest import Manifest
from mmfm.data.pipeline import DataConfig


def resolve_epochs(raw: MutableMapping[str, Any], replayed: Collection[str] = ()) -> None:
    """Put the number of steps of `train.epochs` beside it, in a recipe that is still plain data.
    The sources that are `replayed` make an epoch longer by their share of the draws, ``replay``.

    ConfigError where `train.max_steps` is there too and says otherwise, or the epochs are none.
    """
    train = raw.get("train")
    if not isinstance(train, MutableMapping) or train.get("epochs") is None:
        return
    epochs = train["epochs"]
    if isinstance(epochs, bool) or not isinstance(epochs, int | float) or not 0 < epochs < math.inf:
        raise ConfigError(f"train.epochs = {epochs!r}: a number above 0 is needed")
    data = from_dict(DataConfig, raw.get("data") or {}, "data")
    if data.global_batch_size < 1:
        raise ConfigError(
            f"data.global_batch_size = {data.global_batch_size}: a positive number is needed"
        )
    share = raw.get("replay") or 0
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise ConfigError(f"replay = {share!r} is a share of the draws, in [0, 1)")
    data.sources = {name: one for name, one in data.sources.items() if name not in replayed}
    samples = count_samples(manifest for _, manifest, _ in data.open_sources())
    # Decimals as they are written: 0.1 of 30 samples are 3.
    drawn = Fraction(str(epochs)) * samples / (1 - Fraction(str(share)))
    steps = max(1, math.ceil(drawn / data.global_batch_size))
    if train.get("max_steps") not in (None, steps):
        of_them = f", {share} of them replay" if share else ""
        raise ConfigError(
            f"train.epochs = {epochs} is {steps} steps ({samples:,} samples in batches of "
            f"{data.global_batch_size}{of_them}), but train.max_steps = {train['max_steps']}: "
            "leave one out"
        )
    train["max_steps"] = steps


def count_samples(manifests: Iterable[Manifest]) -> int:
    """The samples that are drawn in training: those with a modality."""
    return sum(
        count
        for manifest in manifests
        for shard in manifest.shards
        for modality_set, count in shard.modality_sets.items()
        if modality_set
    )
