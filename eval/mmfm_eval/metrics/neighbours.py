"""Classes by vote of the nearest neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_CELLS = 16_000_000


def unit_rows(x: NDArray[Any]) -> NDArray[np.float64]:
    """`x` [n,D] with rows of length one (a row of zeros stays zero)."""
    x = x.astype(np.float64)
    if not np.isfinite(x).all():
        raise ValueError("the features hold NaN or infinite numbers: the checkpoint has diverged")
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.where(length > 0, length, 1.0), dtype=np.float64)


def vote(
    train: NDArray[Any],
    train_labels: Ints,
    test: NDArray[Any],
    *,
    k: int,
    temperature: float | None,
    excluded: NDArray[Any] | None = None,
) -> Ints:
    """The class of each row of `test` [n,D] by vote of its `k` most similar rows of `train` [m,D]
    (cosine).

    Votes count exp(cosine / temperature) (Wu et al. 2018, arXiv:1805.01978), or one each without a
    temperature; of classes with equally many votes the one with the nearer neighbours wins.
    `excluded` [n] is a row of `train` that may not vote, -1 for none. Equal neighbours are taken in
    the order of `train`.
    """
    train, test = unit_rows(train), unit_rows(test)
    classes = int(train_labels.max()) + 1
    block = max(1, _CELLS // max(1, len(train)))
    out = []
    for start in range(0, len(test), block):
        # Rounded to float32's resolution, so that equal neighbours are equal however the product is
        # blocked.
        similarity = np.round(test[start : start + block] @ train.T, 7)
        if excluded is not None:
            skip = excluded[start : start + block]
            which = np.flatnonzero(skip >= 0)
            similarity[which, skip[which]] = -np.inf
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        closeness = np.take_along_axis(similarity, nearest, axis=1)
        weight = (
            np.ones_like(closeness) if temperature is None else _softmax(closeness / temperature)
        )
        if temperature is None:  # breaks equal votes only: k cosines sum to at most k
            weight += closeness / (4 * k * k)
        votes = np.zeros((len(nearest), classes))
        rows = np.repeat(np.arange(len(nearest)), nearest.shape[1])
        np.add.at(votes, (rows, train_labels[nearest].ravel()), weight.ravel())
        out.append(votes.argmax(1))
    return np.concatenate(out).astype(np.int64)


def _softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = np.exp(x - x.max(1, keepdims=True))
    return np.asarray(shifted / shifted.sum(1, keepdims=True), dtype=np.float64)
