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


def by_chance(truth: NDArray[Any], classes: int) -> dict[str, float]:
    """The accuracy and macro F1 that a uniform guess among `classes` tends to."""
    return {"accuracy": 1 / classes, "macro_f1": macro_f1_by_chance(truth, classes)}


def by_constant(truth: NDArray[Any], label: int) -> dict[str, float]:
    """The accuracy and macro F1 of saying `label` of every row."""
    constant, ones = np.full_like(truth, label), np.ones((1, len(truth)))
    return {
        "accuracy": float(accuracy(truth, constant)(ones)[0]),
        "macro_f1": float(macro_f1(truth, constant)(ones)[0]),
    }


def per_class(truth: Ints, predicted: Ints, names: list[str]) -> list[dict[str, Any]]:
    """For each class that occurs its `row_of`."""
    rows = []
    for index, name in enumerate(names):
        is_true, is_said = truth == index, predicted == index
        hits, support, guesses = (int(x.sum()) for x in (is_true & is_said, is_true, is_said))
        if support + guesses:
            rows.append(row_of(name, hits, support, guesses))
    return rows


def row_of(name: str, hits: int, support: int, guesses: int) -> dict[str, Any]:
    """Name, number of rows, precision, recall (None where it is undefined) and F1."""
    return {
        "class": name,
        "n": support,
        "precision": hits / guesses if guesses else None,
        "recall": hits / support if support else None,
        "f1": 2 * hits / (support + guesses) if support + guesses else 0.0,
    }


def averages(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that scikit-learn's classification_report adds to such a table; undefined numbers
    count as 0.
    """
    support = [row["n"] for row in table]
    rows = []
    for name, weights in (("macro avg", [1] * len(table)), ("weighted avg", support)):
        total = max(sum(weights), 1)
        means = {
            key: sum(w * (row[key] or 0.0) for w, row in zip(weights, table, strict=True)) / total
            for key in ("precision", "recall", "f1")
        }
        rows.append({"class": name, "n": sum(support), **means})
    return rows


def confusion(truth: Ints, predicted: Ints, names: list[str], most: int = 40) -> dict[str, Any]:
    """How often what was taken for what, of the classes that occur: with at most `most` of them
    `confusion`, ``counts[right][said]``; else `confused`, half as many pairs, the most frequent
    first. A negative prediction is none.
    """
    there = np.union1d(truth, predicted[predicted >= 0])
    place = {int(number): i for i, number in enumerate(there)}
    classes = [names[number] for number in place]
    said = predicted >= 0
    pairs, counts = np.unique(np.stack([truth, predicted])[:, said], axis=1, return_counts=True)
    told = zip(*pairs.tolist(), counts.tolist(), strict=True)
    if len(there) <= most:
        table = np.zeros((len(there), len(there)), dtype=np.int64)
        for right, wrong, n in told:
            table[place[right], place[wrong]] = n
        return {"confusion": {"classes": classes, "counts": table.tolist()}}
    wrongs = sorted((-n, right, wrong) for right, wrong, n in told if right != wrong)
    return {
        "confused": [
            {"right": names[right], "said": names[wrong], "n": -n}
            for n, right, wrong in wrongs[: most // 2]
        ]
    }
