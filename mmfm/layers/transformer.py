"""Pre-norm transformer blocks and a stack of them, for encoders, fusion and decoders."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmfm.layers.attention import Attention, attention_mask
from mmfm.layers.mlp import Mlp

NORM_EPS = 1e-6


@dataclass(kw_only=True)
class TransformerConfig:
    """The size of a transformer; the base of the settings of everything that is one."""

    width: int = 256
    layers: int = 6
    heads: int = 4
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads) < 1:
            raise ValueError("width, layers and heads must be at least 1")
        if self.width % self.heads:
            raise ValueError(f"width = {self.width} must be a multiple of heads = {self.heads}")
        if self.mlp_ratio <= 0:
            raise ValueError(f"mlp_ratio = {self.mlp_ratio} must be above 0")
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 0 and below 1")

    def transformer(self, causal: bool = False) -> Transformer:
        """The stack of blocks with these settings."""
        return Transformer(
            self.width,
            self.layers,
            self.heads,
            mlp_ratio=self.mlp_ratio,
            dropout=self.dropout,
            drop_path=self.drop_path,
            causal=causal,
        )


class Block(nn.Module):
    """Pre-norm residual block: x + attention(norm(x)), then x + mlp(norm(x)).

    `drop_path` is the chance to leave a branch out for a sample (stochastic depth, Huang et al.
    2016).
    """

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, dropout: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, round(width * mlp_ratio), dropout)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x_BLD: Tensor, mask: Tensor | None = None) -> Tensor:
        x_BLD = x_BLD + self.drop_path(self.dropout(self.attention(self.norm1(x_BLD), mask)))
        return x_BLD + self.drop_path(self.mlp(self.norm2(x_BLD)))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """`layers` blocks and a final norm; `drop_path` grows linearly with depth up to its value.

    With `recompute` a block keeps only its input for the backward pass, see
    `mmfm.layers.recompute`.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        causal: bool = False,
    ) -> None:
        super().__init__()
        rates = [drop_path * i / max(layers - 1, 1) for i in range(layers)]
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, dropout, rate) for rate in rates)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.causal = causal
        self.recompute = False
        self.apply(init_weights)

    def forward(self, x_BLD: Tensor, valid_BL: Tensor | None = None) -> Tensor:
        """[B,L,width] ▶ [B,L,width]; no token attends to one that isn't `valid`."""
        mask = attention_mask(valid_BL, x_BLD.shape[1], self.causal, x_BLD.device)
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                x_BLD = checkpoint(block, x_BLD, mask, use_reentrant=False)
            else:
                x_BLD = block(x_BLD, mask)
        return self.norm(x_BLD)  # type: ignore[no-any-return]


def init_weights(module: nn.Module) -> None:
    """Linear and embedding weights from a normal distribution of 0.02 cut at ±2, biases zero (as in
    ViT and BERT).

    For `nn.Module.apply` on modules that mmfm makes itself, never on a pretrained one.
    """
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
