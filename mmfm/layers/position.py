"""Where a token is: fixed sine-cosine codes for grids, learned ones for sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def sincos_2d(height: int, width: int, dim: int) -> Tensor:
    """[height·width, dim] position codes of a grid, row by row (as in MAE, He et al. 2022).

    The first half of `dim` encodes the column, the second half the row; each half is sines, then
    cosines.
    """
    if dim % 4:
        raise ValueError(f"a 2D sine-cosine position code needs a width divisible by 4, not {dim}")
    omega = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    halves = [grid.reshape(-1, 1) * omega for grid in (columns, rows)]
    return torch.cat([f(half) for half in halves for f in (torch.sin, torch.cos)], dim=1).float()


class LearnedPosition(nn.Module):
    """Adds a learned vector to each place of a sequence: [B,L,width], L ≤ max_length; `start`: the
    place of its first token.
    """

    def __init__(self, max_length: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_length, width))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x_BLD: Tensor, start: int = 0) -> Tensor:
        length, most = start + x_BLD.shape[1], self.weight.shape[0]
        if length > most:
            raise ValueError(f"the sequence has {length} tokens, more than max_length = {most}")
        return x_BLD + self.weight[start:length]
