"""Exact search for the nearest rows of another group, in blocks on the device, shared by all
ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmfm import distributed
from mmfm.config import ConfigError

CELLS = 16_000_000
"""Similarities held at once."""
STEPS = 2**16
"""Similarities are compared in steps of 1 / STEPS: what differs by less is tied, and the first of
the keys is the nearer one. Rounding, which may differ between batches and machines, then seldom
decides.
"""


@dataclass(frozen=True)
class Nearest:
    """`candidates` [n,among] of the queries `number` [n], -1 = none; the mean `similarity` of the
    candidates, and that of a query and a `random` key of another group.
    """

    number: NDArray[np.int64]
    candidates: NDArray[np.int64]
    similarity: float
    random: float

    def named(self, queries: NDArray[np.int64], keys: NDArray[np.int64]) -> Nearest:
        """With the numbers `queries` [n] and `keys` instead of their places."""
        candidates = np.where(self.candidates < 0, -1, keys[self.candidates])
        return replace(self, number=queries[self.number], candidates=candidates)

    @classmethod
    def together(cls, parts: Sequence[Nearest]) -> Nearest:
        sizes = [len(part.number) for part in parts]
        return cls(
            np.concatenate([part.number for part in parts]),
            np.concatenate([part.candidates for part in parts]),
            float(np.average([part.similarity for part in parts], weights=sizes)),
            float(np.average([part.random for part in parts], weights=sizes)),
        )


def nearest(
    query_QE: Tensor,
    key_KE: Tensor,
    query_group: NDArray[np.int64],
    key_group: NDArray[np.int64],
    *,
    skip: int,
    among: int,
    at_least: int,
    seed: int,
) -> Nearest:
    """For each query the `among` nearest keys (by inner product of unit vectors) of another group
    after the first `skip`; where fewer than `at_least` are left, the last so many. Collective:
    every rank has all queries and keys, and gets all of the result.

    ConfigError where a query has fewer than `at_least` keys of another group.
    """
    device = query_QE.device
    groups_Q, groups_K = (torch.from_numpy(g).to(device) for g in (query_group, key_group))
    size = max(1, CELLS // len(key_KE))
    first = torch.arange(len(key_KE), device=device).flip(0)  # of tied keys
    wanted = min(skip + among, len(key_KE))
    random = torch.from_numpy(np.random.default_rng(seed).integers(0, len(key_KE), len(query_QE)))
    mine = []
    # Blocks are the same whatever the number of ranks, and so is their rounding.
    for start in range(distributed.rank() * size, len(query_QE), distributed.world_size() * size):
        rows = slice(start, start + size)
        similarity = query_QE[rows] @ key_KE.T
        same = groups_Q[rows, None] == groups_K[None, :]
        order = (similarity * STEPS).round().long() * len(key_KE) + first
        lowest = torch.iinfo(torch.int64).min
        top = order.masked_fill(same, lowest).topk(wanted, dim=1)
        left = (top.values > lowest).sum(1).cpu().numpy()
        candidates = _window(top.indices.cpu().numpy(), left, skip, among, at_least)
        taken = torch.from_numpy(candidates).to(device)
        near = similarity.gather(1, taken.clamp(min=0))[taken >= 0].double()
        drawn = random[rows].to(device)[:, None]
        strange = similarity.gather(1, drawn)[~same.gather(1, drawn)].double()
        sums = (near.sum().item(), len(near), strange.sum().item(), len(strange))
        mine.append((start, candidates, sums))
        distributed.place.work += 1
    blocks = sorted(
        (block for part in distributed.all_gather_object(mine) for block in part),
        key=lambda block: block[0],
    )
    near_sum, near_n, strange_sum, strange_n = np.sum([sums for *_, sums in blocks], axis=0)
    return Nearest(
        np.arange(len(query_QE)),
        np.concatenate([candidates for _, candidates, _ in blocks]),
        float(near_sum / near_n),
        float(strange_sum / max(strange_n, 1)),
    )


def _window(
    ranked: NDArray[np.int64], left: NDArray[np.int64], skip: int, among: int, at_least: int
) -> NDArray[np.int64]:
    """[n,among]: of the first `left` [n] of each row the places from `skip` on."""
    if left.min() < at_least:
        raise ConfigError(
            f"head.hard_negatives.per_sample = {at_least}: there is a training sample with only "
            f"{left.min()} samples of another group to be told from"
        )
    start = np.minimum(skip, left - at_least)
    at = start[:, None] + np.arange(among)
    inside = at < left[:, None]
    return np.where(inside, np.take_along_axis(ranked, np.where(inside, at, 0), 1), -1)
