"""Fusion transformer: one self-attention over the tokens of whatever modalities a sample has.

``model.fusion: {type: transformer, width: 256, layers: 2, heads: 4}``
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmfm.fusion.base import Fusion, FusionInput
from mmfm.layers.transformer import TransformerConfig, init_weights

CALLS = 4
"""Runs of the transformer in which samples of like lengths are put together."""


@dataclass(kw_only=True)
class Config(TransformerConfig):
    layers: int = 2

    def build(self, widths: Mapping[str, int]) -> Fusion:
        """`widths`: the token width of each modality."""
        return TransformerFusion(self, widths)


class TransformerFusion(Fusion):
    """A learned [CLS] token, then each modality's tokens, projected to `width`.

    The bias of a modality's projection is its learned modality embedding. Places that a sample
    lacks (padding, or a modality it doesn't have) are no keys of the attention. Pooled is the
    output of the [CLS] token. Tokens carry their positions from their encoders.
    """

    def __init__(self, config: Config, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.width = config.width
        projections = {m: nn.Linear(w, self.width) for m, w in widths.items()}
        for projection in projections.values():
            init_weights(projection)
            nn.init.trunc_normal_(projection.bias, std=0.02)
        self.projections = nn.ModuleDict(projections)
        self.cls = nn.Parameter(torch.empty(self.width))
        nn.init.trunc_normal_(self.cls, std=0.02)
        self.transformer = config.transformer()

    def forward(
        self, inputs: dict[str, FusionInput], samples: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        cls = self.cls.expand(samples, 1, -1)
        parts, valid = [cls], [torch.ones(samples, 1, dtype=torch.bool, device=cls.device)]
        for m, x in inputs.items():
            tokens = self.projections[m](x.tokens)
            length = tokens.shape[1]
            parts.append(
                tokens.new_zeros(samples, length, self.width).index_copy(0, x.rows, tokens)
            )
            valid.append(x.valid.new_zeros(samples, length).index_copy(0, x.rows, x.valid))
        out = self._packed(torch.cat(parts, dim=1), torch.cat(valid, dim=1))
        lengths = [part.shape[1] for part in parts]
        _, *pieces = torch.split(out, lengths, dim=1)
        fused = {m: piece[x.rows] for (m, x), piece in zip(inputs.items(), pieces, strict=True)}
        return fused, out[:, 0]

    def _packed(self, tokens_NLD: Tensor, valid_NL: Tensor) -> Tensor:
        """The transformer over the valid tokens only, zeros elsewhere.

        Samples of like lengths run together, so one with a picture doesn't pay for the places of
        another's text and sound. The number of calls is fixed: under ZeRO-3 each is collective, and
        what the samples of other ranks have isn't known here.
        """
        lengths = valid_NL.sum(1)
        # A stable sort: a row's valid places first, in their order.
        places_NL = valid_NL.logical_not().sort(dim=1, stable=True).indices
        found, where = [], []
        for rows in lengths.argsort(stable=True).tensor_split(CALLS):
            longest = int(lengths[rows].max()) if len(rows) else 1
            places = places_NL[rows, :longest]
            at = (rows[:, None], places)
            valid = valid_NL[at]
            found.append(self.transformer(tokens_NLD[at], valid)[valid])
            where.append((rows[:, None] * valid_NL.shape[1] + places)[valid])
        flat = torch.zeros_like(tokens_NLD).flatten(0, 1)
        return flat.index_copy(0, torch.cat(where), torch.cat(found)).view_as(tokens_NLD)
