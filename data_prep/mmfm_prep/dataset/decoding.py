"""Samples decoded as training does it, to find what it could not use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from mmfm.data.transforms import audio, image, text
from mmfm.data.transforms.base import BadSample, Transform
from mmfm_prep.dataset.reading import Found

_RATE = 16_000


class Decoder:
    """The transforms of pictures, sounds and texts with their default limits."""

    def __init__(self) -> None:
        sound = audio.Config()
        whole = {"sample_rate": _RATE, "max_samples": int(sound.max_seconds * _RATE)}
        self._transforms: dict[str, Transform] = {
            "image": image.Config().build({"size": 224}),
            "audio": sound.build(whole),
        }
        self._texts = text.Config()

    def problems(self, sample: Found, modalities: Iterable[str]) -> Iterator[tuple[str, str]]:
        """(reason, detail) of each of the `modalities` that can't be decoded."""
        rng = np.random.default_rng(0)  # unused: nothing is augmented
        for modality in modalities:
            try:
                if modality in self._transforms:
                    self._transforms[modality].decode(sample.files, sample.meta, rng, False)
                elif modality == "text":
                    self._texts.contents(sample.files, sample.meta)
            except BadSample as bad:
                yield bad.reason, f" ({bad.detail})" if bad.detail else ""
