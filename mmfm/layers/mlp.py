"""The two-layer perceptron of a transformer block."""

from __future__ import annotations

from torch import nn


class Mlp(nn.Sequential):
    """Linear, GELU, linear, with dropout after each linear layer: [..., width] ▶ [..., width]."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )
