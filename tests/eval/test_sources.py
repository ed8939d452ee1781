"""Sources of a suite read real shards: labels numbered over all sources, bad samples counted, the
pixels as a baseline.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmfm.config import from_dict
from mmfm.data.evaluation import EvaluationSource
from mmfm.data.manifest import Manifest
from mmfm_eval.pixels import PixelPredictor
from mmfm_eval.readings import Reading, encode_readings
from mmfm_eval.suite import SuiteConfig
from tests.eval.shards import SPECS, make_set


@pytest.fixture
def sources(tmp_path: Path) -> Callable[[], dict[str, EvaluationSource]]:
    sets = {
        "a": (make_set(tmp_path / "a", ["dog", "cat"]), ["dog", "cat"]),
        "b": (make_set(tmp_path / "b", ["ant", "cat"], broken=(7,)), ["ant", "cat"]),
    }

    def open_all() -> dict[str, EvaluationSource]:
        out = {}
        for name, (folder, labels) in sets.items():
            manifest = Manifest.open(str(folder))
            manifest.label_names = {"animal": labels}
            out[name] = EvaluationSource(name, manifest, SPECS, batch_size=3)
        return out

    return open_all


def test_labels_are_numbered_over_all_sources_and_bad_samples_counted(
    sources: Callable[[], dict[str, EvaluationSource]],
) -> None:
    data = sources()
    readings = [Reading(s, ("image",), label="animal") for s in "ab"]
    found = encode_readings(PixelPredictor(SPECS), data, readings)
    names = ["ant", "cat", "dog"]
    a, b = (found[r] for r in readings)
    assert [names[i] for i in a.labels["image"]] == ["dog", "cat"] * 4
    assert [names[i] for i in b.labels["image"]] == ["ant", "cat"] * 3 + ["ant"]
    assert a.row_ids["image"] == [f"a/{i}" for i in range(8)]
    assert data["a"].left_out() == {}
    (count,) = data["b"].left_out().values()
    assert count == 1
    encode_readings(PixelPredictor(SPECS), data, [Reading("b", ("image",))])
    assert list(data["b"].left_out().values()) == [1]  # a second pass is no second bad sample


def test_a_knn_by_pixels_on_real_shards(sources: Callable[[], dict[str, EvaluationSource]]) -> None:
    settings: dict[str, Any] = {"type": "knn", "train": "a", "test": "b", "k": 1}
    settings |= {"label": "animal", "modality": "image"}
    suite = {"name": "s", "sources": {}, "tasks": {"t": settings}}
    evaluator = from_dict(SuiteConfig, suite).tasks["t"].build()
    scores = {s.name: s for s in evaluator(PixelPredictor(SPECS), sources())}
    assert scores["accuracy"].value == pytest.approx(3 / 7)  # the cats; "ant" was never seen
    assert scores["accuracy"].n == 7
    assert scores["accuracy"].chance == pytest.approx(1 / 3)
