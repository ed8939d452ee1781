"""Recall, NDCG and MRR at k of ranks, one relevant item a query, as statistics of row weights (see
`bootstrap`).

A rank may be halved by ties; it counts where it is at most k.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfm_eval.metrics.bootstrap import Floats, Share, Statistic, mean


def statistics(rank: NDArray[Any], k: int) -> dict[str, Statistic]:
    """``Recall@k``, ``NDCG@k`` and ``MRR@k`` of the `rank` [n] of each query's item, 1 = best."""
    hit = rank <= k
    return {
        f"Recall@{k}": Share(hit),
        f"NDCG@{k}": mean(np.where(hit, 1 / np.log2(1 + rank), 0.0)),
        f"MRR@{k}": mean(np.where(hit, 1 / rank, 0.0)),
    }


def values(rank: NDArray[Any], k: int) -> dict[str, float]:
    """The value of each of the `statistics`."""
    ones = np.ones((1, len(rank)))
    return {name: float(f(ones)[0]) for name, f in statistics(rank, k).items()}


def chance(candidates: NDArray[Any], k: int) -> dict[str, float]:
    """What a random order of each query's `candidates` [n] gives, exactly."""
    place: Floats = np.arange(1, k + 1, dtype=np.float64)
    gains = {
        f"Recall@{k}": np.ones(k),
        f"NDCG@{k}": 1 / np.log2(1 + place),
        f"MRR@{k}": 1 / place,
    }
    reached = np.minimum(candidates, k)
    return {
        name: float(np.mean(np.cumsum(gain)[reached - 1] / candidates))
        for name, gain in gains.items()
    }
