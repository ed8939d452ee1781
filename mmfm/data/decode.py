"""One sample: its files ▶ arrays for each modality, its hashes, seed and label.

All that is random about a sample (which caption, which crop) is drawn from its seed, for each
modality apart, so that an option of one modality changes nothing for another.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from mmfm import config
from mmfm.data.feature_cache import CachedOutput, FeatureCache
from mmfm.data.labels import Target, read_label
from mmfm.data.reader import RawSample, hash63
from mmfm.data.transforms.base import BadSample, Transform
from mmfm.types import Label

TRANSFORMS = config.Component("mmfm.data.transforms")


@dataclass
class Sample:
    """One decoded sample. `inputs`: arrays by modality; `cached`: encoder outputs by modality."""

    sample_id: str
    sample_hash: int
    group: int
    mask_seed: int
    label: Target | None
    masked_view: bool = True
    stream: int = 0
    negative: bool = False
    inputs: dict[str, Any] = field(default_factory=dict)
    cached: dict[str, CachedOutput] = field(default_factory=dict)


class SampleDecoder:
    """Raw samples ▶ samples, for the modalities in `transforms`; it can be sent to a worker
    process.

    A modality in `cache` gets its encoder's outputs; its inputs are decoded too only if it is in
    `raw` or costs nothing to decode.
    """

    def __init__(
        self,
        transforms: Mapping[str, Transform],
        *,
        train: bool,
        label: Label | None = None,
        cache: Mapping[str, FeatureCache] | None = None,
        raw: Collection[str] = (),
    ) -> None:
        self.transforms = dict(transforms)
        self.train = train
        self.label = label
        self.cache = dict(cache or {})
        self.raw = frozenset(raw)
        for modality in self.cache:
            if modality not in self.transforms:
                raise ValueError(
                    f"there is a feature cache for {modality!r}, but the model has only "
                    f"{', '.join(self.transforms)}"
                )
            if train and self.transforms[modality].augments:
                raise ValueError(
                    f"data.transforms.{modality} augments its inputs, but its encoder's outputs "
                    "come from the feature cache; turn one of the two off"
                )

    def decode(self, raw: RawSample, seed: int, only: Collection[str] | None = None) -> Sample:
        """Decode what `raw` has of the model's modalities, or `only` of these. Raises BadSample."""
        group = raw.meta.get("group")
        sample = Sample(
            sample_id=raw.sample_id,
            sample_hash=hash63(raw.sample_id),
            group=hash63(raw.sample_id if group in (None, "") else str(group)),
            mask_seed=_derive(seed, "mask"),
            label=None if self.label is None else read_label(raw, self.label),
        )
        try:
            for modality, transform in self.transforms.items():
                if modality in raw.modalities and (only is None or modality in only):
                    self._decode_modality(sample, raw, modality, transform, seed)
        except BadSample as bad:
            raise BadSample(bad.reason, raw.sample_id, bad.detail) from None
        return sample

    def _decode_modality(
        self, sample: Sample, raw: RawSample, modality: str, transform: Transform, seed: int
    ) -> None:
        rng = np.random.default_rng(_derive(seed, modality))
        content = transform.choose(raw.files, raw.meta, rng, self.train)
        if modality in self.cache:
            try:
                sample.cached[modality] = self.cache[modality].get(content)
            except ValueError:
                # A content that can't be decoded never gets into the cache: that is a bad sample.
                transform.decode_content(content, rng, self.train)
                raise
            if not (transform.cheap or modality in self.raw):
                return
        sample.inputs[modality] = transform.decode_content(content, rng, self.train)


def build_transforms(
    specs: Mapping[str, Mapping[str, Any]], configs: Mapping[str, Any] | None = None
) -> dict[str, Transform]:
    """The transform of each modality in `specs`, from its config or with the settings of its
    module.
    """
    transforms = {}
    for modality, spec in specs.items():
        settings = (configs or {}).get(modality)
        if settings is None:
            settings = _own_settings(modality)
        transform = settings.build(spec)
        assert isinstance(transform, Transform)
        transforms[modality] = transform
    for modality in configs or {}:
        if modality not in specs:
            raise config.ConfigError(
                f"data.transforms.{modality}: the model has only {', '.join(specs)}"
            )
    return transforms


def _own_settings(modality: str) -> Any:
    """The settings of mmfm's own transform for a modality; ConfigError where it has none."""
    where = f"data.transforms.{modality}"
    try:
        return config.component({"type": modality}, TRANSFORMS, where)
    except config.ConfigError as error:
        raise config.ConfigError(
            f"{error}. For a modality of your own, name the module of its transform: "
            f"{where}: {{type: my_package.{modality}}}"
        ) from None


def _derive(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose of a sample."""
    data = seed.to_bytes(8, "big", signed=seed < 0) + purpose.encode()
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big") >> 1
