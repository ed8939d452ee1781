"""One label a sample, from any subset of modalities, through the fusion transformer or one encoder.

head: {type: classification, label: category, modalities: [image, text]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mmfm.heads.base import Head, Metric
from mmfm.model import Model
from mmfm.types import IGNORE_INDEX, Batch, Features, LossTerms, Read


@dataclass(kw_only=True)
class Config:
    """`label`: the field of the samples' labels; several `modalities` are fused, a single one is
    taken as it is.
    """

    label: str
    modalities: list[str] = field(default_factory=lambda: ["image"])
    label_smoothing: float = 0.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not self.modalities:
            raise ValueError("modalities must name at least one")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing = {self.label_smoothing} must be in [0, 1)")

    def build(self, model: Model, label_names: Sequence[str]) -> ClassificationHead:
        return ClassificationHead(self, model, label_names)


def correct(predicted: Mapping[str, NDArray[Any]], labels: NDArray[Any]) -> NDArray[np.bool_]:
    """[n] bool: the samples whose label is predicted."""
    return np.asarray(predicted["label"] == labels)


class ClassificationHead(Head):
    """A linear layer on the pooled features; a sample without any of the modalities has no row to
    learn from.
    """

    metrics: Mapping[str, Metric] = {"accuracy": correct}

    def __init__(self, config: Config, model: Model, label_names: Sequence[str]) -> None:
        super().__init__()
        unknown = set(config.modalities) - set(model.encoders)
        if unknown:
            raise ValueError(
                f"head.modalities names {sorted(unknown)}; the model has "
                f"{', '.join(model.encoders)}"
            )
        if len(label_names) < 2:
            raise ValueError(
                f"label {config.label!r} has {len(label_names)} name: nothing to tell apart"
            )
        fused = len(config.modalities) > 1
        self.label = config.label
        self.label_names = list(label_names)
        self.read = Read("clean", tuple(sorted(config.modalities)), fused=fused)
        self.reads = (self.read,)
        width = model.encoder(config.modalities[0]).width
        if fused:
            if model.fusion is None:
                raise ValueError("head.modalities names several, but model.fusion is null")
            width = model.fusion.width
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(width, len(self.label_names))
        self.label_smoothing = config.label_smoothing
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        present = torch.zeros_like(batch["labels"], dtype=torch.bool)
        for modality in self.read.modalities:
            if modality in batch["rows"]:
                present[batch["rows"][modality]] = True
        return {"classification": (present & (batch["labels"] != IGNORE_INDEX)).sum().double()}

    def forward(self, features: Mapping[Read, Features], batch: Batch) -> dict[str, Tensor]:
        """`logits` [n,classes] of the samples `rows` [n] that have any of the modalities."""
        found = features[self.read]
        key = "fused" if self.read.fused else self.read.modalities[0]
        pooled = found.fused_pooled if self.read.fused else found.pooled.get(key)
        if pooled is None:
            empty = torch.zeros(0, dtype=torch.int64, device=batch["group"].device)
            width = self.classifier.in_features
            pooled, rows = torch.zeros(0, width, device=empty.device), empty
        else:
            rows = found.rows[key]
        pooled = pooled.to(self.norm.weight.dtype)
        return {"logits": self.classifier(self.dropout(self.norm(pooled))), "rows": rows}

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> LossTerms:
        labels = batch["labels"][outputs["rows"]]
        total = F.cross_entropy(
            outputs["logits"].float(),
            labels,
            ignore_index=IGNORE_INDEX,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        return {"classification": (total, (labels != IGNORE_INDEX).sum())}

    def predict(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """`label` [n] int64 and `probability` [n,classes]."""
        probability = outputs["logits"].float().softmax(-1)
        return {
            "label": probability.argmax(-1),
            "probability": probability,
            "rows": outputs["rows"],
        }

    def answers(self, predicted: Mapping[str, Tensor], batch: Batch) -> list[Any]:
        """``label``, its ``probability``, and the ``probabilities`` of all labels by name."""
        found = []
        for probability in predicted["probability"].tolist():
            by_name = dict(zip(self.label_names, probability, strict=True))
            best = max(by_name, key=by_name.__getitem__)
            found.append({"label": best, "probability": by_name[best], "probabilities": by_name})
        return found
