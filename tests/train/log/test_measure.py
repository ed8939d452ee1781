"""What the log says about the data: sources, and what was fetched for them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from mmfm.config import from_dict
from mmfm.data.pipeline import DataConfig, Pipeline
from mmfm.train.log import report
from mmfm.train.log.measure import batch_hash, data_row
from tests.data.make_shards import make_specs, tri_modal_shards, write_set
from tests.data.remote.shard_server import serve


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("served") / "data", tri_modal_shards(size=8))


def pipeline(tmp_path: Path, **paths: str) -> Pipeline:
    config = {
        "sources": {name: {"path": path, "weight": 1} for name, path in paths.items()},
        "global_batch_size": 24,
        "streams": 2,
        "workers": 0,
        "cache": {"folder": str(tmp_path / "cache")},
    }
    specs: dict[str, Any] = make_specs(tmp_path / "tokenizer")
    return Pipeline(from_dict(DataConfig, config), specs, seed=1, rank=0, world_size=1)


def test_each_source_has_its_samples_and_epochs(folder: Path, tmp_path: Path) -> None:
    row = data_row(10, pipeline(tmp_path, one=str(folder), other=str(folder)))
    assert row == {
        "samples/one": 120,
        "epochs/one": 120 / 48,
        "samples/other": 120,
        "epochs/other": 120 / 48,
    }


def test_what_was_fetched_is_told_where_a_source_is_at_a_url(folder: Path, tmp_path: Path) -> None:
    with serve(folder.parent) as server:
        server.faults["/data/000.tar"] = ["500"]
        there = pipeline(tmp_path, one=f"{server.url}/data")
        list(itertools.islice(there, 4))
        row = data_row(4, there)
    size = sum(path.stat().st_size for path in folder.glob("*.tar"))
    assert row["fetched_gb"] >= size / 1e9
    assert row["fetch_retries"] == 1
    assert row["fetch_wait_s"] > 0
    assert row["samples/one"] == 96


def test_the_report_tells_the_sources(tmp_path: Path) -> None:
    row = """{"split": "train", "step": 5, "samples_seen": 1600, "loss": 0.5, "samples_per_s": 9,
        "data_wait": 0.1, "samples/no_loss": 1600, "epochs/no_loss": 12.5}"""
    (tmp_path / "metrics.jsonl").write_text(" ".join(row.split()) + "\n")
    page = report.write(tmp_path).read_text()
    assert '<tr><td>no_loss<td class="n">1,600<td class="n">12.50' in page
    assert "<h3>loss</h3>" in page
    assert page.count("<h3>") == 1  # a source is no loss


def test_the_hash_of_a_step_is_of_the_drawn_samples() -> None:
    """Hard negatives are others after a resume that mines anew."""

    def of(*samples: str) -> str:
        negative = torch.tensor([sample.startswith("n") for sample in samples])
        return batch_hash([{"sample_id": list(samples), "negative": negative}])

    assert of("a", "n1", "b") == of("a", "b", "n2") == batch_hash([{"sample_id": ["b", "a"]}])
    assert of("a", "n1", "b") != of("a", "n1", "c")
