"""Simple recommenders that a learned one must beat.

Each learns from the `training` histories (rows of items, in order) and gives, for what users had
before, scores [n,N] of all N items:

    scores = markov(training, items=1682)([history, …])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mmfm_eval.metrics.bootstrap import Floats

Ints = NDArray[np.int64]
Recommender = Callable[[Sequence[Ints]], Floats]

MOST_ITEMS = 20_000
"""Item-to-item tables are dense: at this number one takes 3.2 GB."""


def popularity(training: Sequence[Ints], items: int) -> Recommender:
    """How often an item was chosen, the same for everybody."""
    counts = _counts(training, items)
    return lambda histories: np.tile(counts, (len(histories), 1))


def item_knn(training: Sequence[Ints], items: int, k: int = 100) -> Recommender:
    """The sum of the cosines between an item's choosers and those of what the user had, of the `k`
    items most similar to it (Deshpande and Karypis 2004).
    """
    _check(items, "item_knn")
    together = np.zeros((items, items))
    for history in training:
        chosen = np.unique(history)
        together[np.ix_(chosen, chosen)] += 1
    norm = np.sqrt(np.diag(together))
    cosine = together / np.maximum(np.outer(norm, norm), 1.0)
    np.fill_diagonal(cosine, 0.0)
    if k < items:
        lowest = np.partition(cosine, items - k, axis=0)[items - k]
        cosine[cosine < lowest] = 0.0
    return lambda histories: np.stack([cosine[np.unique(h)].sum(0) for h in histories])


def markov(training: Sequence[Ints], items: int) -> Recommender:
    """How often an item followed the user's latest one; equal counts by popularity."""
    _check(items, "markov")
    follows = np.zeros((items, items))
    for history in training:
        np.add.at(follows, (history[:-1], history[1:]), 1.0)
    counts = _counts(training, items)
    tie_break = counts / (counts.sum() + 1)  # below 1, so it never outweighs a transition
    return lambda histories: follows[[h[-1] for h in histories]] + tie_break


RECOMMENDERS = {"popularity": popularity, "item_knn": item_knn, "markov": markov}


def _counts(training: Sequence[Ints], items: int) -> Floats:
    chosen = np.concatenate([np.zeros(0, np.int64), *training])
    return np.bincount(chosen, minlength=items).astype(np.float64)


def _check(items: int, name: str) -> None:
    if items > MOST_ITEMS:
        raise ValueError(
            f"baseline {name} needs a table of {items} x {items} items; at most {MOST_ITEMS} are "
            "possible: leave it out of baselines"
        )
