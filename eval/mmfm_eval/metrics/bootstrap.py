"""Estimates with bootstrap intervals over clusters of rows.

A *statistic* is a function of row weights: it takes weights [R,n] (how often each of the n rows
stands in each of R resamples) and returns its value in every resample [R]. With weights of one it
gives the value of the sample itself, so a score and its interval come from the same code. Rows that
belong together (several queries of one concept) are drawn together: the clusters are resampled, not
the rows (Davison and Hinkley 1997, *Bootstrap Methods and Their Application*, section 3.8;
percentile intervals). The gallery or the trained probe stays fixed: the interval is about the
queries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]

RESAMPLES = 1000
_CELLS = 4_000_000  # weights held at once; fixed, so that draws depend on data and seed only


class Estimate(NamedTuple):
    """A value and its 95 % interval; no interval where there are fewer than two clusters."""

    value: float
    ci95: tuple[float, float] | None


def estimate(
    statistics: Mapping[str, Statistic],
    clusters: NDArray[Any],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Estimate]:
    """Each statistic's value and interval; all see the same resamples.

    `clusters` [n] says to which cluster each row belongs (any values; equal = together).
    """
    n = len(clusters)
    if n == 0:
        raise ValueError("there are no rows to compute a score from")
    values = {name: float(f(np.ones((1, n)))[0]) for name, f in statistics.items()}
    _, cluster_of_row = np.unique(clusters, return_inverse=True)
    count = int(cluster_of_row.max()) + 1
    if count < 2:
        return {name: Estimate(value, None) for name, value in values.items()}
    rng = np.random.default_rng(seed)
    block = max(1, min(resamples, _CELLS // n))
    draws: dict[str, list[Floats]] = {name: [] for name in statistics}
    for start in range(0, resamples, block):
        weights = _cluster_weights(rng, min(block, resamples - start), count)[:, cluster_of_row]
        for name, f in statistics.items():
            draws[name].append(f(weights))
    out = {}
    for name, value in values.items():
        low, high = np.nanquantile(np.concatenate(draws[name]), (0.025, 0.975))
        if isinstance(statistics[name], Share) and value in (0.0, 1.0):
            # All rows agree, so no resample differs: the exact binomial bound of Clopper and
            # Pearson (1934) for as many draws as there are clusters.
            open_end = 1 - 0.025 ** (1 / count)
            low, high = (0.0, open_end) if value == 0 else (1 - open_end, 1.0)
        out[name] = Estimate(value, (float(low), float(high)))
    return out


def mean(values: NDArray[Any]) -> Statistic:
    """The statistic "mean of `values` [n]"."""
    values = np.asarray(values, dtype=np.float64)
    return lambda weights: weights @ values / weights.sum(1)


@dataclass(frozen=True)
class Share:
    """The statistic "share of the rows that are `hits` [n] (True)"."""

    hits: NDArray[np.bool_]

    def __call__(self, weights: Floats) -> Floats:
        return mean(self.hits)(weights)


def median(values: NDArray[Any]) -> Statistic:
    """The statistic "median of `values` [n]" (of an even number, the mean of the middle two)."""
    order = np.argsort(values, kind="stable")
    ordered = np.asarray(values, dtype=np.float64)[order]

    def statistic(weights: Floats) -> Floats:
        cumulative = np.cumsum(weights[:, order], axis=1)
        half = cumulative[:, -1:] / 2
        low = np.argmax(cumulative >= half, axis=1)
        high = np.argmax(cumulative > half, axis=1)
        return np.asarray((ordered[low] + ordered[high]) / 2, dtype=np.float64)

    return statistic


def _cluster_weights(rng: np.random.Generator, resamples: int, count: int) -> Floats:
    """How often each of `count` clusters is drawn in each resample: [resamples, count]."""
    drawn = rng.integers(0, count, size=(resamples, count))
    drawn += np.arange(resamples)[:, None] * count
    counts = np.bincount(drawn.ravel(), minlength=resamples * count)
    return counts.reshape(resamples, count).astype(np.float64)
