"""Sources of a suite read real shards: labels numbered over all sources, bad samples counted, the
pixels as a baseline.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmfm_eval.pixels import PixelPredictor
from mmfm_eval.readings import Reading, encode_readings
from mmfm_eval.sources import Source
from mmfm_eval.suite import SuiteConfig
from PIL import Image

from mmfm.config import from_dict
from mmfm.data.manifest import Manifest

SPECS = {
    "image": {"size": 8, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"},
}


def picture(colour: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(colour).integers(0, 255, size=(8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def make_set(folder: Path, animals: list[str], break_last: bool = False) -> Path:
    """A tar with one picture a sample, labelled in turn, and its manifest without shard digests."""
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:

        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        for i in range(8):
            label = animals[i % len(animals)]
            meta = {"id": f"{folder.name}/{i}", "group": label, "labels": {"animal": label}}
            broken = break_last and i == 7
            add(f"{i:03d}.png", b"no picture" if broken else picture(sum(map(ord, label))))
            add(f"{i:03d}.json", json.dumps(meta).encode())
    return folder


@pytest.fixture
def sources(tmp_path: Path) -> Callable[[], dict[str, Source]]:
    sets = {
        "a": (make_set(tmp_path / "a", ["dog", "cat"]), ["dog", "cat"]),
        "b": (make_set(tmp_path / "b", ["ant", "cat"], break_last=True), ["ant", "cat"]),
    }

    def open_all() -> dict[str, Source]:
        out = {}
        for name, (folder, labels) in sets.items():
            manifest = Manifest.open(str(folder))
            manifest.label_names = {"animal": labels}
            out[name] = Source(name, manifest, SPECS, batch_size=3)
        return out

    return open_all


def test_labels_are_numbered_over_all_sources_and_bad_samples_counted(
    sources: Callable[[], dict[str, Source]],
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


def test_a_knn_by_pixels_on_real_shards(sources: Callable[[], dict[str, Source]]) -> None:
    settings: dict[str, Any] = {"type": "knn", "train": "a", "test": "b", "k": 1}
    settings |= {"label": "animal", "modality": "image"}
    suite = {"name": "s", "sources": {}, "tasks": {"t": settings}}
    evaluator = from_dict(SuiteConfig, suite).tasks["t"].build()
    scores = {s.name: s for s in evaluator(PixelPredictor(SPECS), sources())}
    assert scores["accuracy"].value == pytest.approx(3 / 7)  # the cats; "ant" was never seen
    assert scores["accuracy"].n == 7
    assert scores["accuracy"].chance == pytest.approx(1 / 3)
