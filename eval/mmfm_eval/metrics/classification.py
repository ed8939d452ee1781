"""Accuracy, macro F1 and calibration as statistics of row weights (see `bootstrap`), and the table
per class.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfm_eval.metrics.bootstrap import Floats, Share, Statistic

Ints = NDArray[np.int64]


def accuracy(truth: NDArray[Any], predicted: NDArray[Any]) -> Statistic:
    """The share of rows whose `predicted` [n] class is the `truth` [n]."""
    return Share(np.asarray(truth) == np.asarray(predicted))


def macro_f1(truth: NDArray[Any], predicted: NDArray[Any]) -> Statistic:
    """The mean F1 over the classes that occur in `truth` or `predicted` (as scikit-learn's macro
    average).

    A class that occurs in neither within a resample is left out of that resample's mean.
    """
    classes = np.union1d(truth, predicted)
    is_true = (np.asarray(truth)[:, None] == classes).astype(np.float64)
    is_predicted = (np.asarray(predicted)[:, None] == classes).astype(np.float64)
    is_hit = is_true * is_predicted
    is_either = is_true + is_predicted

    def statistic(weights: Floats) -> Floats:
        total = weights @ is_either
        f1 = 2 * (weights @ is_hit) / np.where(total > 0, total, np.nan)
        return np.asarray(np.nanmean(f1, axis=1), dtype=np.float64)

    return statistic


def calibration_error(
    truth: NDArray[Any], predicted: NDArray[Any], confidence: NDArray[Any], bins: int = 15
) -> Statistic:
    """The expected calibration error over equally wide bins of `confidence` [n] (Guo et al. 2017,
    arXiv:1706.04599).
    """
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    of_row = np.searchsorted(edges, confidence, side="left")
    one_hot = np.eye(bins)[of_row]
    gap = (np.asarray(truth) == np.asarray(predicted)) - np.asarray(confidence, dtype=np.float64)

    def statistic(weights: Floats) -> Floats:
        error = np.abs(weights @ (one_hot * gap[:, None])).sum(1) / weights.sum(1)
        return np.asarray(error, dtype=np.float64)

    return statistic


def macro_f1_by_chance(truth: NDArray[Any], classes: int) -> float:
    """The macro F1 that a uniform guess among `classes` tends to with many rows."""
    share = np.bincount(truth, minlength=classes) / len(truth)
    return float(np.mean(2 * share / (classes * share + 1)))


def majority(labels: NDArray[Any]) -> int:
    """The most frequent label, the lowest one of several."""
    return int(np.argmax(np.bincount(labels)))


def per_class(truth: Ints, predicted: Ints, names: list[str]) -> list[dict[str, Any]]:
    """For each class that occurs: name, number of rows, precision, recall and F1 (None where it is
    undefined).
    """
    table = []
    for index, name in enumerate(names):
        hits = int(((truth == index) & (predicted == index)).sum())
        support, guesses = int((truth == index).sum()), int((predicted == index).sum())
        if support + guesses == 0:
            continue
        table.append(
            {
                "class": name,
                "n": support,
                "precision": hits / guesses if guesses else None,
                "recall": hits / support if support else None,
                "f1": 2 * hits / (support + guesses),
            }
        )
    return table
