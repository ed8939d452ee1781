"""From the tokens of a sample to one vector."""

from __future__ import annotations

from torch import Tensor


def mean_pool(x_BLD: Tensor, valid_BL: Tensor | None = None) -> Tensor:
    """[B,L,D] ▶ [B,D]: the mean over the valid tokens; zero where a row has none."""
    if valid_BL is None:
        return x_BLD.mean(dim=1)
    weights = valid_BL[..., None].to(x_BLD.dtype)
    # masked_fill: a padded place may hold anything, also what is not finite.
    total = x_BLD.masked_fill(~valid_BL[..., None], 0).sum(dim=1)
    return total / weights.sum(dim=1).clamp(min=1)
