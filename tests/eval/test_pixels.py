"""The pixel baseline: correlation of thumbnails, in tasks on pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from mmfm_eval.pixels import SIDE, PixelPredictor, thumbnails
from tests.eval.fakes import LABELLED, FakeSource, concept_source, scores, task


def pictures(source: FakeSource, noise: float, seed: int) -> FakeSource:
    """`source` with pictures: one pattern for each concept, plus noise."""
    patterns = np.random.default_rng(0).normal(size=(max(source.groups) + 1, 3, 24, 24))
    rng = np.random.default_rng(seed)
    drawn = [patterns[g] + noise * rng.normal(size=(3, 24, 24)) for g in source.groups]
    return replace(source, vectors={"image": drawn})


def test_inner_products_are_correlations_of_thumbnails() -> None:
    x = torch.rand(5, 3, 2 * SIDE, 2 * SIDE)
    found = thumbnails(x)
    small = x.reshape(5, 3, SIDE, 2, SIDE, 2).mean((3, 5)).flatten(1).numpy()
    np.testing.assert_allclose(found @ found.T, np.corrcoef(small), atol=1e-5)
    brighter = thumbnails(3 * x + 1)
    np.testing.assert_allclose(brighter, found, atol=1e-5)


def test_a_plain_picture_is_no_nan() -> None:
    assert np.isfinite(thumbnails(torch.ones(1, 3, 20, 20))).all()


def test_it_stands_in_for_a_predictor() -> None:
    train = pictures(concept_source("a", copies=3), 0.5, seed=1)
    test = pictures(concept_source("b"), 0.5, seed=2)
    predictor = PixelPredictor({"image": {}})
    encoded = predictor.encode_batches(train, ["image"])
    assert encoded.row_ids["image"] == sorted(train.ids)
    assert encoded.embedding["image"].shape == (60, 3 * SIDE * SIDE)
    np.testing.assert_array_equal(encoded.groups["image"], train.groups)
    found = scores(task(type="knn", k=3, **LABELLED), predictor, a=train, b=test)
    assert found["accuracy"].value == 1.0
