"""Transformer decoder: each token sees those before it, and a memory of other tokens (Vaswani et
al. 2017), with pre-norm blocks.

    decoder = Decoder(TransformerConfig(width=256, layers=2))
    out_BLD = decoder(x_BLD, memory_BMD, valid_BL, memory_valid_BM)

Token by token, without computing those before anew:

    state = decoder.begin(memory_BMD, memory_valid_BM)
    out_B1D = decoder.next(x_B1D, state)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmfm.layers.attention import Attention, CrossAttention, Seen, attention_mask
from mmfm.layers.mlp import Mlp
from mmfm.layers.transformer import NORM_EPS, TransformerConfig, init_weights


@dataclass
class DecoderState:
    """What a decoder has seen: of each block the keys and values of the `memory` of B samples, and
    those of the tokens so far, of B·R sequences, R for each sample.
    """

    memory: list[Seen]
    memory_mask: Tensor | None
    past: list[Seen | None] = field(default_factory=list)
    length: int = 0

    @property
    def past_rows(self) -> int:
        """The sequences so far, B·R."""
        first = self.past[0]
        return 0 if first is None else len(first[0])

    def take(self, rows: Tensor) -> None:
        """Go on with these sequences: places among the present ones."""
        self.past = [None if p is None else (p[0][rows], p[1][rows]) for p in self.past]


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

    def next(
        self, x_BRD: Tensor, past: Seen | None, memory: Seen, memory_mask: Tensor | None
    ) -> tuple[Tensor, Seen]:
        """The next token [B,R,D] of R sequences of each sample, in evaluation mode; and the keys
        and values of all so far.
        """
        B, R, D = x_BRD.shape
        seen, past = self.attention.next(self.norm1(x_BRD).view(B * R, 1, D), past)
        x_BRD = x_BRD + seen.view(B, R, D)
        x_BRD = x_BRD + self.cross_attention.attend(self.norm2(x_BRD), memory, memory_mask)
        return x_BRD + self.mlp(self.norm3(x_BRD)), past


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

    def begin(self, memory_BMD: Tensor, memory_valid_BM: Tensor | None = None) -> DecoderState:
        """Nothing but the memory has been seen."""
        return DecoderState(
            [block.cross_attention.seen(memory_BMD) for block in self.blocks],  # type: ignore[operator,union-attr]
            attention_mask(memory_valid_BM, memory_BMD.shape[1]),
            [None] * len(self.blocks),
        )

    def next(self, x_BRD: Tensor, state: DecoderState) -> Tensor:
        """What `forward` gives for the next token of R sequences of each sample [B,R,width], in
        evaluation mode; `state` then holds it, too.
        """
        for i, block in enumerate(self.blocks):
            assert isinstance(block, DecoderBlock)
            x_BRD, state.past[i] = block.next(
                x_BRD, state.past[i], state.memory[i], state.memory_mask
            )
        state.length += 1
        return self.norm(x_BRD)  # type: ignore[no-any-return]
