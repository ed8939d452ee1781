"""From an encoder's outputs to the shared embedding space: a linear map, a hidden layer, or both.

model:
  projections:
    image: {reads: tokens, root: true, hidden: 1024, residual: true, dropout: 0.3}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from mmfm.layers.transformer import init_weights

ROOT_OFFSET = 1e-4


@dataclass(kw_only=True)
class ProjectionConfig:
    """`hidden`: the width of a hidden layer, which is what a frozen encoder needs; none unless set.
    `residual`: a linear map beside it keeps what the encoder knows (as CLIP-Adapter's residual,
    arXiv:2110.04544).
    `dropout`: how much of the input is dropped in training, which keeps a hidden layer from relying
    on a few features. `reads`: the pooled vector, or all tokens side by side, which keeps where
    things are in a picture (for encoders with a fixed, small grid). `root`: read the signed square
    root, so that the few large ones among rectified features don't outweigh the rest (Perronnin et
    al., ECCV 2010).
    """

    hidden: int | None = None
    residual: bool = False
    dropout: float = 0.0
    reads: Literal["pooled", "tokens"] = "pooled"
    root: bool = False

    def __post_init__(self) -> None:
        if self.hidden is not None and self.hidden < 1:
            raise ValueError(f"hidden = {self.hidden} must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout = {self.dropout} must be in [0, 1)")
        if (self.dropout or self.residual) and self.hidden is None:
            raise ValueError("dropout and residual need a hidden layer: set hidden")

    def build(self, width: int, tokens: int | None, embed_dim: int) -> Projection:
        """`width` of tokens and pooled; `tokens`: how many there always are, None where it varies.

        Raises:
            ValueError: if all tokens are to be read and their number varies.
        """
        if self.reads == "tokens":
            if tokens is None:
                raise ValueError(
                    "reads = tokens needs an encoder that always gives the same number of them"
                )
            width *= tokens
        return Projection(self, width, embed_dim)


class Projection(nn.Module):
    """Pooled [B,D], or tokens [B,L,D] with their valid places [B,L] ▶ [B,embed_dim], not yet of
    length 1.
    """

    def __init__(self, config: ProjectionConfig, width: int, embed_dim: int) -> None:
        super().__init__()
        self.reads_tokens = config.reads == "tokens"
        self.root = config.root
        self.norm: nn.Module = nn.Identity()
        self.maps = nn.ModuleDict()
        if config.hidden is not None:
            self.norm = nn.Sequential(nn.LayerNorm(width), nn.Dropout(config.dropout))
            self.maps["hidden"] = nn.Sequential(
                nn.Linear(width, config.hidden),
                nn.GELU(),
                nn.Linear(config.hidden, embed_dim, bias=False),
            )
        if config.hidden is None or config.residual:
            self.maps["linear"] = nn.Linear(width, embed_dim, bias=False)
        if config.hidden is None:
            # A hidden layer has torch's own start, which goes by the width: that may be large.
            self.maps.apply(init_weights)

    def forward(
        self, pooled_BD: Tensor, tokens_BLD: Tensor | None = None, valid_BL: Tensor | None = None
    ) -> Tensor:
        inputs = pooled_BD
        if self.reads_tokens:
            assert tokens_BLD is not None
            assert valid_BL is not None
            # A padded place may hold anything.
            inputs = tokens_BLD.masked_fill(~valid_BL[..., None], 0).flatten(1)
        if self.root:
            # The offset keeps the slope at zero finite.
            inputs = inputs / (inputs.abs() + ROOT_OFFSET).sqrt()
        inputs = self.norm(inputs)
        first, *others = self.maps.values()
        projected: Tensor = first(inputs)
        for other in others:
            projected = projected + other(inputs)
        return projected
