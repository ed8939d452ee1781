"""The tasks `regression` and `multi_label`, against scikit-learn and scipy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn import metrics

from mmfm.config import ConfigError
from mmfm.types import Label
from mmfm_eval.metrics import multi_label, regression
from mmfm_eval.tasks.multi_label import Config as MultiLabel
from mmfm_eval.tasks.regression import Config as Regression

RNG = np.random.default_rng(0)
N = 60


def scores(evaluator: Any, predicted: dict[str, Any], target: Any, **about: Any) -> dict[str, Any]:
    judged = SimpleNamespace(predicted=predicted, target=target, groups=np.arange(len(target)))
    predictor = SimpleNamespace(specs={}, judged_batches=lambda source: judged, **about)
    found = {s.name: s for s in evaluator(predictor, {"a": SimpleNamespace()})}
    for score in found.values():
        assert score.n == len(target)
        assert score.ci95[0] <= score.value <= score.ci95[1]
    return found


HEAD = {"label": None, "head": SimpleNamespace(metrics={"absolute_error": None})}


def test_numbers() -> None:
    y = RNG.normal(5, 2, N)
    p = y + RNG.normal(0, 1, N)
    found = scores(Regression(source="a").build(), {"value": p}, y, **HEAD)
    value = {name: score.value for name, score in found.items()}
    assert value["absolute_error"] == pytest.approx(metrics.mean_absolute_error(y, p))
    assert value["root_mean_square_error"] == pytest.approx(metrics.root_mean_squared_error(y, p))
    assert value["r2"] == pytest.approx(metrics.r2_score(y, p))
    assert value["rank_correlation"] == pytest.approx(spearmanr(y, p).statistic)
    median, mean = np.full(N, np.median(y)), np.full(N, y.mean())
    constant = {name: score.baseline for name, score in found.items()}
    assert constant["absolute_error"] == pytest.approx(metrics.mean_absolute_error(y, median))
    want = metrics.root_mean_squared_error(y, mean)
    assert constant["root_mean_square_error"] == pytest.approx(want)
    assert (constant["r2"], constant["rank_correlation"]) == (0, 0)


def test_a_constant_prediction_correlates_with_nothing() -> None:
    y = RNG.normal(0, 1, N)
    found = scores(Regression(source="a").build(), {"value": np.ones(N)}, y, **HEAD)
    assert found["rank_correlation"].value == 0


@pytest.mark.parametrize("middle", [0.1, 1e8, -1e12])
def test_numbers_far_from_zero(middle: float) -> None:
    y = middle + RNG.normal(0, 1, N)
    p = y + RNG.normal(0, 0.5, N)
    weights = np.stack([np.ones(N), RNG.multinomial(N, np.full(N, 1 / N))])
    found = regression.r2(y, p)(weights)
    assert found == pytest.approx([metrics.r2_score(y, p, sample_weight=w) for w in weights])


@pytest.mark.parametrize("n", [3, 60])
@pytest.mark.parametrize("number", [0.0, 0.1, 36.6, 1e8 / 3])
def test_equal_numbers_leave_nothing_to_explain(number: float, n: int) -> None:
    """All of them, or all of a resample."""
    y = np.array([*np.full(n, number), *np.full(n, 7 * number + 0.3)])
    p = y + RNG.normal(0, 1, 2 * n)
    whole, first, last = np.ones(2 * n), np.repeat([1.0, 0.0], n), np.repeat([0.0, 1.0], n)
    some = regression.r2(y, p)(np.stack([whole, first, last]))
    assert np.isnan(some).tolist() == [False, True, True]
    assert np.isnan(regression.r2(y[:n], p[:n])(np.ones((1, n)))).all()
    correlation = regression.rank_correlation(y, p)(np.stack([whole, first, last]))
    assert correlation[0] == pytest.approx(spearmanr(y, p).statistic)
    assert correlation[1:].tolist() == [0, 0]


def test_other_heads_and_broken_numbers_are_refused() -> None:
    evaluator = Regression(source="a").build()
    with pytest.raises(ConfigError, match="with a regression head"):
        scores(evaluator, {}, np.zeros(2), head=SimpleNamespace(metrics={}))
    with pytest.raises(ValueError, match="the head has diverged"):
        scores(evaluator, {"value": np.array([1.0, np.nan])}, np.zeros(2), **HEAD)
    with pytest.raises(ConfigError, match="of multi_label: true"):
        scores(MultiLabel(source="a").build(), {}, np.zeros(2), label=Label("x", ["a"]))


NAMES = ["a", "b", "c", "d"]
SETS = {"label": Label("x", NAMES, "set")}


def drawn(ties: bool) -> tuple[Any, Any]:
    truth = (RNG.random((N, 4)) < [0.1, 0.3, 0.6, 0.8]).astype(int)
    score = np.clip(0.4 * truth + 0.6 * RNG.random((N, 4)), 0, 1)
    return truth, np.round(score, 1) if ties else score


@pytest.mark.parametrize("ties", [False, True])
def test_sets_of_labels(ties: bool) -> None:
    truth, probability = drawn(ties)
    evaluator = MultiLabel(source="a").build()
    found = scores(evaluator, {"probability": probability}, truth, **SETS)
    told = probability >= 0.5
    value = {name: score.value for name, score in found.items()}
    for average in ("micro", "macro"):
        want = metrics.f1_score(truth, told, average=average, zero_division=0)
        assert value[f"{average}_f1"] == pytest.approx(want)
    want = metrics.average_precision_score(truth, probability, average="macro")
    assert value["mean_average_precision"] == pytest.approx(want)
    assert value["all_right"] == pytest.approx(metrics.accuracy_score(truth, told))
    share = truth.mean(0)
    assert found["mean_average_precision"].chance == pytest.approx(share.mean())
    constant = np.broadcast_to(share >= 0.5, truth.shape)
    want = metrics.f1_score(truth, constant, average="micro", zero_division=0)
    assert found["micro_f1"].baseline == pytest.approx(want)


def test_resamples_are_whole_samples_again() -> None:
    truth, probability = drawn(ties=True)
    weights = RNG.integers(0, 3, size=(1, N)).astype(float)
    rows = np.repeat(np.arange(N), weights[0].astype(int))
    statistic = multi_label.mean_average_precision(truth, probability)
    want = metrics.average_precision_score(truth[rows], probability[rows], average="macro")
    assert statistic(weights)[0] == pytest.approx(want)


def test_labels_drawn_by_their_frequency_reach_chance() -> None:
    truth = (RNG.random((4000, 4)) < [0.1, 0.3, 0.6, 0.8]).astype(int)
    guess = (RNG.random((4000, 4)) < truth.mean(0)).astype(int)
    ones = np.ones((1, 4000))
    share = truth.mean(0)
    micro = float(multi_label.micro_f1(truth, guess)(ones)[0])
    assert micro == pytest.approx(np.square(share).sum() / share.sum(), abs=0.02)
    macro = float(multi_label.macro_f1(truth, guess)(ones)[0])
    assert macro == pytest.approx(share.mean(), abs=0.02)
