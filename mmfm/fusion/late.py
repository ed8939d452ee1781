"""Late fusion: the pooled vectors of a sample's modalities, averaged or side by side. A baseline.

``model.fusion: {type: late, width: 256, combine: mean}``
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mmfm.fusion.base import Fusion, FusionInput
from mmfm.layers.transformer import init_weights


@dataclass(kw_only=True)
class Config:
    """`combine`: "mean" of the modalities that are there, or "concat" with zeros for the others."""

    width: int = 256
    combine: Literal["mean", "concat"] = "mean"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width = {self.width} must be at least 1")

    def build(self, widths: Mapping[str, int]) -> Fusion:
        """`widths`: the token width of each modality."""
        return LateFusion(self, widths)


class LateFusion(Fusion):
    """One linear projection a modality, for its tokens and its pooled vector alike; no modality
    sees another's tokens.
    """

    def __init__(self, config: Config, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.width = config.width
        self.projections = nn.ModuleDict({m: nn.Linear(w, self.width) for m, w in widths.items()})
        concat = config.combine == "concat"
        self.mix = nn.Linear(self.width * len(widths), self.width) if concat else None
        self.apply(init_weights)

    def forward(
        self, inputs: dict[str, FusionInput], samples: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        fused = {m: self.projections[m](x.tokens) for m, x in inputs.items()}
        pooled: dict[str, Tensor] = {}
        for m, x in inputs.items():
            vectors = self.projections[m](x.pooled)
            pooled[m] = vectors.new_zeros(samples, self.width).index_copy(0, x.rows, vectors)
        some = next(iter(pooled.values()))
        if self.mix is not None:
            zero = torch.zeros_like(some)
            return fused, self.mix(torch.cat([pooled.get(m, zero) for m in self.projections], 1))
        counts = torch.zeros(samples, dtype=some.dtype, device=some.device)
        for x in inputs.values():
            counts = counts.index_add(0, x.rows, torch.ones_like(x.rows, dtype=some.dtype))
        return fused, torch.stack(list(pooled.values())).sum(0) / counts[:, None]
