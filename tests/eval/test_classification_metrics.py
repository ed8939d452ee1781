"""Classification metrics against scikit-learn, votes against its nearest-neighbour classifier."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support
from sklearn.neighbors import KNeighborsClassifier

from mmfm_eval.metrics import classification, neighbours

rng = np.random.default_rng(0)
TRUTH = rng.integers(0, 5, size=200)
PREDICTED = np.where(rng.random(200) < 0.6, TRUTH, rng.integers(0, 6, size=200))
WEIGHTS = rng.integers(1, 4, size=(20, 200)).astype(float)


def test_accuracy_and_macro_f1_are_sklearns_weighted_ones() -> None:
    for name, reference in {
        "accuracy": accuracy_score,
        "macro_f1": lambda t, p, sample_weight: f1_score(
            t, p, average="macro", sample_weight=sample_weight, zero_division=0
        ),
    }.items():
        found = getattr(classification, name)(TRUTH, PREDICTED)(WEIGHTS)
        expected = [reference(TRUTH, PREDICTED, sample_weight=w) for w in WEIGHTS]
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_macro_f1_leaves_out_classes_that_a_resample_lacks() -> None:
    weights = (TRUTH == 1)[None].astype(float)
    only = PREDICTED[TRUTH == 1]
    expected = f1_score(np.ones_like(only), only, average="macro", zero_division=0)
    assert classification.macro_f1(TRUTH, PREDICTED)(weights)[0] == pytest.approx(expected)


def test_calibration_error_by_bins() -> None:
    confidence = rng.random(200)
    confidence[:3] = (0.0, 0.2, 1.0)  # the edges
    correct = TRUTH == PREDICTED
    for w in WEIGHTS[:5]:
        expected, total = 0.0, w.sum()
        for low in np.arange(10) / 10:
            high = low + 0.1
            inside = (confidence > low + 1e-12) & (confidence <= high + 1e-12)
            inside |= (low == 0) & (confidence == 0)
            if inside.any():
                share = w[inside].sum()
                gap = abs((w * (correct - confidence))[inside].sum() / share)
                expected += share / total * gap
        found = classification.calibration_error(TRUTH, PREDICTED, confidence, bins=10)(w[None])
        assert found[0] == pytest.approx(expected, abs=1e-12)


def test_a_calibrated_model_has_a_small_error_and_a_sure_one_a_large() -> None:
    confidence = rng.random(20000)
    correct = (rng.random(20000) < confidence).astype(int)
    ones = np.ones((1, 20000))
    found = classification.calibration_error(np.ones(20000), correct, confidence)(ones)[0]
    assert found < 0.03
    sure = classification.calibration_error(np.ones(20000), correct, np.ones(20000))(ones)[0]
    assert sure == pytest.approx(0.5, abs=0.02)


def test_chance_of_macro_f1_is_met_by_uniform_guesses() -> None:
    truth = rng.choice(4, p=(0.7, 0.2, 0.1, 0.0), size=40000)
    guesses = rng.integers(0, 4, size=40000)
    expected = f1_score(truth, guesses, average="macro", zero_division=0)
    assert classification.macro_f1_by_chance(truth, 4) == pytest.approx(expected, abs=0.01)


def test_table_per_class_is_sklearns() -> None:
    names = [f"class {i}" for i in range(7)]
    table = classification.per_class(TRUTH, PREDICTED, names)
    p, r, f, n = precision_recall_fscore_support(
        TRUTH, PREDICTED, labels=range(6), zero_division=np.nan
    )
    assert [row["class"] for row in table] == names[:6]  # the seventh occurs nowhere
    assert table[5]["recall"] is None  # only guessed, never true
    assert [row["n"] for row in table] == n.tolist()
    np.testing.assert_allclose([row["precision"] for row in table], p)
    np.testing.assert_allclose([row["recall"] for row in table[:5]], r[:5])
    np.testing.assert_allclose([row["f1"] for row in table], np.nan_to_num(f))


@pytest.mark.parametrize("temperature", [None, 0.07])
def test_votes_are_those_of_sklearn(temperature: float | None) -> None:
    centres = rng.normal(size=(4, 6))
    labels = rng.integers(0, 4, size=90)
    train = centres[labels] + 1.5 * rng.normal(size=(90, 6))
    test = centres[rng.integers(0, 4, size=50)] + 1.5 * rng.normal(size=(50, 6))

    def weights(distance: np.ndarray) -> np.ndarray:
        cosine = 1 - distance
        if temperature is not None:
            return np.exp(cosine / temperature)
        return 1 + 1e-4 * cosine  # equal votes go to the nearer neighbours

    reference = KNeighborsClassifier(7, metric="cosine", weights=weights).fit(train, labels)
    found = neighbours.vote(train, labels, test, k=7, temperature=temperature)
    np.testing.assert_array_equal(found, reference.predict(test))


def test_a_row_may_be_kept_from_voting() -> None:
    x = np.eye(3)[[0, 0, 1]]
    labels = np.array([0, 1, 2])
    found = neighbours.vote(x, labels, x[:2], k=1, temperature=0.1, excluded=np.array([0, -1]))
    np.testing.assert_array_equal(found, [1, 0])  # equal neighbours in the order of train


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    right_and_wrong = np.array([1, 1]), np.array([1, 0])
    found = classification.calibration_error(*right_and_wrong, np.array([0.2, 0.25]), bins=10)
    assert found(np.ones((1, 2)))[0] == pytest.approx((0.8 + 0.25) / 2)
