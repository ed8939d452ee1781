"""What heads on the pooled features share: a norm, dropout and a linear layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmfm.heads.base import Head
from mmfm.layers.transformer import init_weights
from mmfm.model import FUSED, Model
from mmfm.types import Batch, Features, Read


class PooledHead(Head):
    """`outputs` numbers of each sample that has any of `modalities`; several are fused, a single
    one is taken as it is.
    """

    def __init__(
        self, model: Model, modalities: Sequence[str], outputs: int, dropout: float
    ) -> None:
        super().__init__()
        unknown = set(modalities) - set(model.encoders)
        if unknown:
            raise ValueError(
                f"head.modalities names {sorted(unknown)}; the model has "
                f"{', '.join(model.encoders)}"
            )
        fused = len(modalities) > 1
        self.read = Read("clean", tuple(sorted(modalities)), fused=fused)
        self.reads = (self.read,)
        width = model.encoder(modalities[0]).width
        if fused:
            if model.fusion is None:
                raise ValueError("head.modalities names several, but model.fusion is null")
            width = model.fusion.width
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, outputs)
        # Drawn, not zero: through a layer of zeros no encoder learns anything, and under AdamW it
        # takes tens of steps to grow.
        init_weights(self.classifier)

    def rows(self, batch: Batch) -> Tensor:
        """The samples, ascending, that have any of the modalities."""
        present = torch.zeros_like(batch["group"], dtype=torch.bool)
        for modality in self.read.modalities:
            if modality in batch["rows"]:
                present[batch["rows"][modality]] = True
        return present.nonzero()[:, 0]

    def forward(self, features: Mapping[Read, Features], batch: Batch) -> dict[str, Tensor]:
        """`logits` [n,outputs] of the samples `rows` [n] that have any of the modalities."""
        found = features[self.read]
        key = FUSED if self.read.fused else self.read.modalities[0]
        pooled = found.fused_pooled if self.read.fused else found.pooled.get(key)
        if pooled is None:
            empty = torch.zeros(0, dtype=torch.int64, device=batch["group"].device)
            width = self.classifier.in_features
            pooled, rows = torch.zeros(0, width, device=empty.device), empty
        else:
            rows = found.rows[key]
        pooled = pooled.to(self.norm.weight.dtype)
        return {"logits": self.classifier(self.dropout(self.norm(pooled))), "rows": rows}
