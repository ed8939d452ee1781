"""Transformer decoder: each token sees those before it, and a memory of other tokens (Vaswani et
al. 2017), with pre-norm blocks.

    decoder = Decoder(TransformerConfig(width=256, layers=2))
    out_BLD = decoder(x_BLD, memory_BMD, valid_BL, memory_valid_BM)
"""

from __future__ import annotations

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmfm.layers.attention import Attention, CrossAttention, attention_mask
from mmfm.layers.mlp import Mlp
from mmfm.layers.transformer import NORM_EPS, TransformerConfig, init_weights


class DecoderBlock(nn.Module):
    """x + attention(norm(x)), then x + cross_attention(norm(x), memory), then x + mlp(norm(x))."""

    def __init__(self, config: TransformerConfig, drop_path: float) -> None:
        super().__init__()
        width, heads, dropout = config.width, config.heads, config.dropout
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.cross_attention = CrossAttention(width, heads, dropout)
        self.norm3 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, round(width * config.mlp_ratio), dropout)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(
        self, x_BLD: Tensor, memory_BMD: Tensor, mask: Tensor | None, memory_mask: Tensor | None
    ) -> Tensor:
        seen = self.attention(self.norm1(x_BLD), mask)
        x_BLD = x_BLD + self.drop_path(self.dropout(seen))
        seen = self.cross_attention(self.norm2(x_BLD), memory_BMD, memory_mask)
        x_BLD = x_BLD + self.drop_path(self.dropout(seen))
        return x_BLD + self.drop_path(self.mlp(self.norm3(x_BLD)))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """The blocks of `config` and a final norm; `drop_path` grows linearly with depth up to its
    value. `recompute` is that of a `Transformer`.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        last = max(config.layers - 1, 1)
        self.blocks = nn.ModuleList(
            DecoderBlock(config, config.drop_path * i / last) for i in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.recompute = False
        self.apply(init_weights)

    def forward(
        self,
        x_BLD: Tensor,
        memory_BMD: Tensor,
        valid_BL: Tensor | None = None,
        memory_valid_BM: Tensor | None = None,
    ) -> Tensor:
        """[B,L,width] ▶ [B,L,width]; no token attends to a later one, nor to one that isn't
        `valid`.
        """
        mask = attention_mask(valid_BL, x_BLD.shape[1], True, x_BLD.device)
        memory_mask = attention_mask(memory_valid_BM, memory_BMD.shape[1])
        for block in self.blocks:
            seen = (x_BLD, memory_BMD, mask, memory_mask)
            if self.recompute and torch.is_grad_enabled():
                x_BLD = checkpoint(block, *seen, use_reentrant=False)
            else:
                x_BLD = block(*seen)
        return self.norm(x_BLD)  # type: ignore[no-any-return]
