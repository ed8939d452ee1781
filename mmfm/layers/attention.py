"""Multi-head attention over a padded sequence, its own or another, on PyTorch's fused kernel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Seen = tuple[Tensor, Tensor]
"""The keys and the values [B,heads,L,D / heads] of a sequence."""


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017), no bias on queries, keys and values.

    The bias of the keys cannot change the output, so its gradient is rounding noise that Adam would
    amplify.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x_BLD: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask`, bool and broadcastable to [B,heads,L,L], is True where a query (row) may attend
        to a key.
        """
        B, L, D = x_BLD.shape
        q, k, v = self._split(x_BLD)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out(y.transpose(1, 2).reshape(B, L, D))  # type: ignore[no-any-return]

    def next(self, x_B1D: Tensor, past: Seen | None) -> tuple[Tensor, Seen]:
        """What `forward` gives for the last token of a sequence, from that token alone and the keys
        and values of those `past`; and those of all.
        """
        q, k, v = self._split(x_B1D)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(x_B1D.shape)), (k, v)

    def _split(self, x_BLD: Tensor) -> Tensor:
        """[3,B,heads,L,D / heads]: queries, keys and values."""
        B, L, D = x_BLD.shape
        return self.qkv(x_BLD).view(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Multi-head attention of a sequence to another one of the same width, the memory; biases as in
    `Attention`.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads = heads
        self.dropout = dropout
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x_BLD: Tensor, memory_BMD: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask`, bool and broadcastable to [B,heads,L,M], is True where a token of x (row) may
        attend to one of the memory.
        """
        return self.attend(x_BLD, self.seen(memory_BMD), mask)

    def seen(self, memory_BMD: Tensor) -> Seen:
        """The keys and values of a memory."""
        B, M, D = memory_BMD.shape
        parts = self.kv(memory_BMD).view(B, M, 2, self.heads, D // self.heads)
        k, v = parts.permute(2, 0, 3, 1, 4)
        return k, v

    def attend(self, x_BLD: Tensor, seen: Seen, mask: Tensor | None = None) -> Tensor:
        """As `forward`, to the keys and values of the memory."""
        B, L, D = x_BLD.shape
        q = self.q(x_BLD).view(B, L, self.heads, D // self.heads).transpose(1, 2)
        k, v = seen
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out(y.transpose(1, 2).reshape(B, L, D))  # type: ignore[no-any-return]


def attention_mask(
    valid_BL: Tensor | None,
    length: int,
    causal: bool = False,
    device: torch.device | None = None,
) -> Tensor | None:
    """The mask for `Attention`: keys must be valid and, if `causal`, not lie after the query.
    `device`: where the queries are.

    A row without any valid key attends to all of them, so that its (unused) output stays finite.
    """
    mask = None
    if valid_BL is not None:
        mask = (valid_BL | ~valid_BL.any(dim=1, keepdim=True))[:, None, None, :]
    if causal:
        before = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        # A query always sees itself: padding on the left would leave it without any key.
        itself = torch.eye(length, dtype=torch.bool, device=device)
        mask = before if mask is None else (before & mask) | itself
    return mask
