"""Texts of like lengths together: a short one doesn't pay for the padding of the longest."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

CALLS = 4
"""Runs of the encoder for a batch. Fixed: under ZeRO-3 each is collective, and how long the texts
of other ranks are isn't known here.
"""


def by_length(run: Callable[[Tensor, Tensor], Tensor], ids_BL: Tensor, valid_BL: Tensor) -> Tensor:
    """`run` (ids, valid) ▶ tokens over four parts of the batch, from the shortest texts to the
    longest, each cut to its own longest: [B,L,D], zeros behind each part's end.
    """
    L = ids_BL.shape[1]
    reach = torch.where(valid_BL.any(1), L - valid_BL.flip(1).int().argmax(1), 1)
    parts, order = [], reach.argsort(stable=True)
    for rows in order.tensor_split(CALLS):
        chosen = rows if len(rows) else order[:1]  # a batch of fewer texts than calls
        length = int(reach[chosen].max()) if len(chosen) else 1
        tokens = run(ids_BL[chosen, :length], valid_BL[chosen, :length])[: len(rows)]
        parts.append(F.pad(tokens, (0, 0, 0, L - length)))
    place = order.argsort()
    return torch.cat(parts)[place]
