"""Which samples' parts belong together, by a model of mmfm: the cosine of two embeddings.

    mmfm data make table shop.csv data/shop image=photo 'texts.en=[title]' \\
        filters.similarity.checkpoint=runs/quickstart filters.similarity.min=0.2

What the cosines of a model are says nothing by itself: look at some of each height first (they are
kept in the samples' JSON as ``similarity``), or choose `min` so that a share is left.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mmfm_prep.errors import PrepError
from mmfm_prep.sample import Sample, all_texts

if TYPE_CHECKING:
    from mmfm.predictor import Predictor

BATCH = 32


@dataclass(kw_only=True)
class Similarity:
    """`checkpoint`: a run's folder or a checkpoint; none: nothing is compared. `pair`: the two
    modalities; samples that lack one stay. `min`: the least cosine. Of texts the first is compared.
    """

    checkpoint: str | None = None
    pair: tuple[str, str] = ("image", "text")
    min: float = -1.0

    def __post_init__(self) -> None:
        if not -1 <= self.min <= 1:
            raise ValueError(f"min = {self.min} is a cosine, from -1 to 1")
        if len(set(self.pair) & {"image", "text", "audio"}) != 2:
            raise ValueError(f"pair = {self.pair}: two of image, text, audio are compared")

    def fingerprint(self) -> str:
        """Stands for the model that compares, "" without one. PrepError where it can't be used."""
        if self.checkpoint is None:
            return ""
        from mmfm.checkpoint import Checkpoint  # late: torch takes seconds to import
        from mmfm.files import sha256

        try:
            return sha256(Checkpoint.open(self.checkpoint).path / "manifest.json")
        except (ValueError, OSError) as error:
            raise self._unusable(error) from None

    def of(self, samples: Sequence[Sample]) -> list[float | str | None]:
        """The cosine of each sample's pair, None where it lacks a part, a reason where the model
        can't read it. PrepError where the checkpoint can't be used.
        """
        from mmfm.data.transforms.base import BadSample  # late: torch takes seconds to import

        assert self.checkpoint is not None
        have = [all(_part(sample, name) for name in self.pair) for sample in samples]
        chosen = [sample for sample, whole in zip(samples, have, strict=True) if whole]
        try:
            cosines = iter(self._cosines(chosen))
        except BadSample as bad:
            if len(chosen) > 1:  # one by one, to find which
                return [self.of([sample])[0] for sample in samples]
            cosines = iter([bad.reason])
        except (ValueError, OSError) as error:  # it can't be read, or lacks a modality
            raise self._unusable(error) from None
        return [next(cosines) if whole else None for whole in have]

    def _unusable(self, error: Exception) -> PrepError:
        return PrepError(f"filters.similarity.checkpoint {self.checkpoint}: {error}")

    def _cosines(self, samples: Sequence[Sample]) -> Sequence[float | str]:
        if not samples:
            return []
        assert self.checkpoint is not None
        inputs = {name: [_part(sample, name) for sample in samples] for name in self.pair}
        found = _predictor(self.checkpoint).encode(BATCH, **inputs)
        one, other = (found[name] for name in self.pair)
        return [round(cosine, 4) for cosine in (one * other).sum(-1).tolist()]


def _part(sample: Sample, modality: str) -> Any:
    """What the predictor takes of a modality; None where the sample has none."""
    if modality == "text":
        return next(iter(all_texts(sample.texts)), None)
    return getattr(sample, modality)


@lru_cache(maxsize=1)
def _predictor(checkpoint: str) -> Predictor:
    """Loaded once by each process, and not before it is used."""
    import torch

    from mmfm.predictor import load

    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)  # the other cores have processes of their own
    return load(checkpoint)
