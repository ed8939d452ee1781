"""Scores of several labels a sample as statistics of row weights (see `bootstrap`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfm_eval.metrics.bootstrap import Floats, Statistic

Matrix = NDArray[Any]
"""[rows, labels]."""


def micro_f1(truth: Matrix, predicted: Matrix) -> Statistic:
    """F1 over all pairs of a row and a label, both 0 or 1; 0 without any."""
    hits, either = (truth * predicted).sum(1), (truth + predicted).sum(1)
    return lambda weights: 2 * (weights @ hits) / np.maximum(weights @ either, 1e-12)


def macro_f1(truth: Matrix, predicted: Matrix) -> Statistic:
    """The mean of the labels' F1, 0 for one that neither has in a resample."""
    hits, either = truth * predicted, truth + predicted

    def statistic(weights: Floats) -> Floats:
        f1 = 2 * (weights @ hits) / np.maximum(weights @ either, 1e-12)
        return np.asarray(f1.mean(1), dtype=np.float64)

    return statistic


def mean_average_precision(truth: Matrix, score: Matrix) -> Statistic:
    """The mean of the labels' average precision, as scikit-learn has it, over those that a resample
    has.
    """
    orders = [np.argsort(-column, kind="stable") for column in score.T]
    # Rows of equal score are told apart by nothing: each has the precision at the last of them.
    lasts = [
        np.searchsorted(-score[order, c], -score[order, c], side="right") - 1
        for c, order in enumerate(orders)
    ]

    def statistic(weights: Floats) -> Floats:
        found = []
        for c, (order, last) in enumerate(zip(orders, lasts, strict=True)):
            seen = weights[:, order]
            right = seen * truth[order, c]
            above = np.maximum(np.cumsum(seen, axis=1), 1e-12)
            precision = (np.cumsum(right, axis=1) / above)[:, last]
            total = right.sum(1)
            sums = (right * precision).sum(1)
            found.append(sums / np.where(total > 0, total, np.nan))
        return np.asarray(np.nanmean(found, axis=0), dtype=np.float64)

    return statistic
