"""Ranks of relevant items in a gallery, and what a random order would give.

The rank of a query is that of its first relevant item: 1 is best. Items whose cosine differs by
less than `TIE` (the resolution of float32 embeddings) are tied, and a tie counts as the expected
rank under a random order of the tied items, so a model that maps everything to one point scores
like chance instead of perfectly.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TIE = 1e-6
JUDGED_TIE = 1e-4
"""The same for logits of the fusion, whose rounding is that of float32."""
_CELLS = 16_000_000


class Ranks(NamedTuple):
    """Per query: the rank of the first relevant item (nan without one), and how many items are
    relevant, of how many.
    """

    rank: Floats
    relevant: Ints
    candidates: Ints


def first_relevant_ranks(
    queries: NDArray[Any],
    gallery: NDArray[Any],
    query_groups: NDArray[Any],
    gallery_groups: NDArray[Any],
    excluded: NDArray[Any] | None = None,
    judged: tuple[NDArray[Any], NDArray[Any]] | None = None,
) -> Ranks:
    """Rank the gallery [N,E] for each query [Q,E] by inner product; items of the query's group are
    relevant.

    `excluded` [Q] is one gallery row that is no candidate for the query (the query itself), -1 for
    none. `judged`: gallery rows [Q,K] that come before all others, in the order of their scores
    [Q,K].
    """
    queries, gallery = queries.astype(np.float64), gallery.astype(np.float64)
    if not (np.isfinite(queries).all() and np.isfinite(gallery).all()):
        raise ValueError("the embeddings hold NaN or infinite numbers: the checkpoint has diverged")
    block = max(1, _CELLS // max(1, len(gallery)))
    parts = []
    for start in range(0, len(queries), block):
        rows = slice(start, start + block)
        similarity = queries[rows] @ gallery.T
        relevant = query_groups[rows, None] == gallery_groups[None]
        candidates = np.full(len(similarity), len(gallery), dtype=np.int64)
        if excluded is not None:
            which = np.flatnonzero(excluded[rows] >= 0)
            similarity[which, excluded[rows][which]] = -np.inf
            relevant[which, excluded[rows][which]] = False
            candidates[which] -= 1
        if judged is not None:
            first, score = judged[0][rows], judged[1][rows] * (TIE / JUDGED_TIE)
            above = similarity.max() + 1 - score.min()
            np.put_along_axis(similarity, first, score + above, axis=1)
        parts.append(_ranks(similarity, relevant, candidates))
    return Ranks(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _ranks(similarity: Floats, relevant: NDArray[np.bool_], candidates: Ints) -> Ranks:
    count = relevant.sum(1)
    best = np.max(np.where(relevant, similarity, -np.inf), axis=1, initial=-np.inf)
    best[count == 0] = np.nan  # comparisons are then false, and the rank becomes nan
    above = ((similarity > best[:, None] + TIE) & ~relevant).sum(1)
    near = np.abs(similarity - best[:, None]) <= TIE
    tied_relevant = (near & relevant).sum(1)
    tied_others = (near & ~relevant).sum(1)
    # Among t tied others and s tied relevant items in random order, t / (s + 1) others come before
    # the first relevant.
    rank = 1 + above + tied_others / (tied_relevant + 1)
    rank[count == 0] = np.nan
    return Ranks(rank, count.astype(np.int64), candidates)


class ChanceLevel(NamedTuple):
    """What a random order of the gallery gives, averaged over the queries."""

    recall: dict[int, float]
    reciprocal_rank: float
    median_rank: float


def chance_level(relevant: Ints, candidates: Ints, ks: tuple[int, ...]) -> ChanceLevel:
    """The exact expectation for queries with `relevant` [Q] of `candidates` [Q] items, all of them
    at least one.

    The first relevant item lies beyond rank k with the hypergeometric probability C(n-r, k) / C(n,
    k). The median is that of the mixture of the queries' rank distributions.
    """
    cases, counts = np.unique(np.stack([relevant, candidates]), axis=1, return_counts=True)
    share = counts / counts.sum()
    longest = int(candidates.max())
    mixture = np.zeros(longest)  # probability that the first relevant item has rank 1, 2, …
    for (r, n), weight in zip(cases.T, share, strict=True):
        mixture[:n] += weight * first_rank_distribution(int(r), int(n))
    below = np.cumsum(mixture)
    recall = {k: float(below[min(k, longest) - 1]) for k in ks}
    low = int(np.argmax(below >= 0.5 - 1e-12)) + 1
    high = int(np.argmax(below > 0.5 + 1e-12)) + 1
    reciprocal = float(mixture @ (1 / np.arange(1, longest + 1)))
    return ChanceLevel(recall, reciprocal, (low + high) / 2)


def first_rank_distribution(relevant: int, candidates: int) -> Floats:
    """[n]: the probability that the first of r relevant among n items in random order has rank 1,
    2, … n.
    """
    before = np.arange(candidates)
    stays = np.clip(candidates - relevant - before, 0, None) / (candidates - before)
    beyond = np.concatenate([[1.0], np.cumprod(stays)])
    return np.asarray(beyond[:-1] - beyond[1:], dtype=np.float64)
