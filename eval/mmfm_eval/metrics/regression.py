"""Errors and correlations of predicted numbers as statistics of row weights (see `bootstrap`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mmfm_eval.metrics.bootstrap import Floats, Statistic, mean


def absolute_error(truth: NDArray[Any], predicted: NDArray[Any]) -> Statistic:
    """The mean of |predicted - truth|."""
    return mean(np.abs(np.asarray(predicted, np.float64) - truth))


def root_mean_square_error(truth: NDArray[Any], predicted: NDArray[Any]) -> Statistic:
    """The root of the mean squared difference."""
    squares = mean(np.square(np.asarray(predicted, np.float64) - truth))
    return lambda weights: np.sqrt(squares(weights))


def r2(truth: NDArray[Any], predicted: NDArray[Any]) -> Statistic:
    """The share of the variance that is explained, as scikit-learn's r2_score; NaN in a resample
    whose numbers are all the same.
    """
    y, p = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)

    def statistic(weights: Floats) -> Floats:
        error, variance = weights @ np.square(p - y), _spread(weights, y)
        return 1 - error / np.where(variance > 0, variance, np.nan)

    return statistic


def rank_correlation(truth: NDArray[Any], predicted: NDArray[Any]) -> Statistic:
    """Spearman's, with the ranks of all rows also in a resample; 0 where all are predicted the
    same.
    """
    y, p = rankdata(truth), rankdata(predicted)

    def statistic(weights: Floats) -> Floats:
        spread = np.sqrt(_spread(weights, y) * _spread(weights, p))
        return _products(weights, y, p) / np.where(spread > 0, spread, np.inf)

    return statistic


def _spread(weights: Floats, a: NDArray[Any]) -> Floats:
    """The weighted sum of squared differences from the mean: 0 where all numbers are the same."""
    squares = _products(weights, a, a)
    return np.where(squares > 1e-12 * (weights @ np.square(_centred(a))), squares, 0)


def _products(weights: Floats, a: NDArray[Any], b: NDArray[Any]) -> Floats:
    """The weighted sum of products of differences from the means."""
    a, b = _centred(a), _centred(b)
    centre = weights @ a / weights.sum(1)
    return np.asarray(weights @ (a * b) - centre * (weights @ b), dtype=np.float64)


def _centred(a: NDArray[Any]) -> NDArray[Any]:
    """Without what all have in common, which would leave few digits to the differences. Unlike the
    mean, the median leaves nothing of equal numbers.
    """
    return np.asarray(a - np.median(a), dtype=np.float64)
