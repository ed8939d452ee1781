"""Bootstrap intervals: weights mean repetition, clusters stay together, coverage is about right."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from mmfm_eval.metrics import bootstrap
from mmfm_eval.metrics.bootstrap import Share, estimate, mean, median

rng = np.random.default_rng(0)


@pytest.mark.parametrize("n", [1, 2, 7, 8])
def test_statistics_of_weights_are_those_of_repeated_rows(n: int) -> None:
    values = rng.normal(size=n).round(1)
    weights = rng.integers(0, 4, size=(50, n)).astype(float)
    weights[:, 0] += 1
    repeated = [np.repeat(values, w.astype(int)) for w in weights]
    np.testing.assert_allclose(mean(values)(weights), [r.mean() for r in repeated], atol=1e-12)
    np.testing.assert_allclose(median(values)(weights), [np.median(r) for r in repeated])


def test_cluster_weights_draw_as_many_clusters_as_there_are() -> None:
    weights = bootstrap._cluster_weights(np.random.default_rng(0), 2000, 10)
    assert weights.shape == (2000, 10)
    assert (weights.sum(1) == 10).all()
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.1)
    np.testing.assert_allclose(weights.var(0), 0.9, atol=0.1)  # multinomial: n p (1 - p)


def test_the_value_is_the_samples_own_and_draws_do_not_depend_on_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values, clusters = rng.normal(size=60), np.arange(60) // 3
    whole = estimate({"m": mean(values), "d": median(values)}, clusters, seed=3)
    assert whole["m"].value == pytest.approx(values.mean(), abs=1e-12)
    assert whole["d"].value == np.median(values)
    monkeypatch.setattr(bootstrap, "_CELLS", 60 * 7)
    blocked = estimate({"m": mean(values), "d": median(values)}, clusters, seed=3)
    assert blocked["d"] == whole["d"]
    assert blocked["m"].ci95 == pytest.approx(whole["m"].ci95, abs=1e-12)
    assert estimate({"m": mean(values)}, clusters, seed=4)["m"].ci95 != whole["m"].ci95


def test_rows_of_one_cluster_do_not_count_as_independent() -> None:
    values = np.repeat(rng.integers(0, 2, size=50), 20)
    low, high = estimate({"m": mean(values)}, np.repeat(np.arange(50), 20))["m"].ci95 or (0, 0)
    narrow = estimate({"m": mean(values)}, np.arange(1000))["m"].ci95 or (0, 0)
    assert (high - low) > 3 * (narrow[1] - narrow[0])


def test_coverage_is_near_95_percent() -> None:
    truth, hits, runs = 0.3, 0, 400
    draw = np.random.default_rng(5)
    for run in range(runs):
        chance_of_cluster = draw.beta(3, 7, size=80)  # mean 0.3
        values = draw.random((80, 4)) < chance_of_cluster[:, None]
        clusters = np.repeat(np.arange(80), 4)
        found = estimate({"m": mean(values.ravel())}, clusters, seed=run, resamples=400)["m"]
        assert found.ci95 is not None
        hits += found.ci95[0] <= truth <= found.ci95[1]
    assert 0.90 <= hits / runs <= 0.98


def test_one_cluster_has_no_interval_and_no_rows_are_an_error() -> None:
    assert estimate({"m": mean(np.array([1.0, 0.0]))}, np.array([7, 7]))["m"] == (0.5, None)
    with pytest.raises(ValueError, match="no rows"):
        estimate({"m": mean(np.array([]))}, np.array([]))


def test_a_share_without_any_miss_keeps_an_interval() -> None:
    none = estimate({"m": Share(np.zeros(60, dtype=bool))}, np.arange(60) // 3)["m"]
    assert none.ci95 == (0.0, pytest.approx(binom_bound(20)))
    every = estimate({"m": Share(np.ones(60, dtype=bool))}, np.arange(60) // 3)["m"]
    assert every.ci95 == (pytest.approx(1 - binom_bound(20)), 1.0)
    some = np.arange(60) % 2 == 0
    assert estimate({"m": Share(some)}, np.arange(60)) == estimate({"m": mean(some)}, np.arange(60))


def binom_bound(n: int) -> float:
    """The upper end of the exact 95 % interval of 0 successes in n trials, from scipy."""
    return float(binomtest(0, n).proportion_ci(0.95, method="exact").high)
