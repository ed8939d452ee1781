"""A predictor that knows nothing: pictures as 16 x 16 thumbnails, compared by correlation. A
baseline for pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from mmfm import distributed
from mmfm.types import Batch

SIDE = 16


@dataclass
class Thumbnails:
    """What `encode_batches` returns; the same fields as `mmfm.predictor.Encoded`."""

    embedding: dict[str, NDArray[Any]] = field(default_factory=dict)
    pooled: dict[str, NDArray[Any]] = field(default_factory=dict)
    row_ids: dict[str, list[str]] = field(default_factory=dict)
    groups: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    labels: dict[str, NDArray[np.int64]] = field(default_factory=dict)


class PixelPredictor:
    """Stands in for a predictor in tasks on pictures; `specs` are those of the model beside it."""

    head = None

    def __init__(self, specs: dict[str, dict[str, Any]]) -> None:
        self.specs = specs

    def encode_batches(
        self,
        data: Iterable[Batch],
        modalities: Sequence[str],
        fused: bool = False,
        pooled: bool = False,
    ) -> Thumbnails:
        """Embeddings [n,768] of the pictures, of all ranks, one a sample, in the order of their
        ids. Collective.
        """
        found: dict[str, tuple[NDArray[Any], int, int]] = {}
        for batch in data:
            if "image" not in batch["rows"]:
                continue
            rows = batch["rows"]["image"].tolist()
            labels = batch.get("labels")
            for i, x in zip(rows, thumbnails(batch["image"]), strict=True):
                label = -1 if labels is None else int(labels[i])
                found[batch["sample_id"][i]] = (x, int(batch["group"][i]), label)
        everything = {
            k: v for part in distributed.all_gather_object(found) for k, v in part.items()
        }
        if not everything:
            return Thumbnails()
        ids = sorted(everything)
        x = np.stack([everything[i][0] for i in ids])
        return Thumbnails(
            embedding={"image": x},
            pooled={"image": x},
            row_ids={"image": ids},
            groups={"image": np.array([everything[i][1] for i in ids], dtype=np.int64)},
            labels={"image": np.array([everything[i][2] for i in ids], dtype=np.int64)},
        )

    def logits_batches(self, data: Iterable[Batch]) -> Any:
        raise ValueError("baseline: pixels has no classification head")

    def rank_batches(self, data: Iterable[Batch], place: int = 1) -> Any:
        raise ValueError("baseline: pixels has no recommendation head")


def thumbnails(pictures: torch.Tensor) -> NDArray[np.float32]:
    """Pictures [B,3,H,W] as centred vectors of length one [B,768]."""
    x = F.adaptive_avg_pool2d(pictures.detach().float().cpu(), SIDE).flatten(1)
    return np.asarray(F.normalize(x - x.mean(1, keepdim=True)).numpy())
