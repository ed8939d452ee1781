"""Two processes give the scores of one, on every rank; an error on rank 0 reaches the other."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmfm import distributed
from mmfm_eval import cli, runner
from mmfm_eval.pixels import PixelPredictor
from mmfm_eval.tasks.base import AgreedError, on_main
from tests.eval.fakes import (
    IMAGE,
    LABELLED,
    TEXT,
    FakePredictor,
    concept_source,
    retrieval,
    task,
)
from tests.eval.tiny_checkpoint import make_checkpoint, make_data

SUITE = Path(__file__).parents[2] / "configs" / "eval" / "tiny.yaml"


def all_scores() -> list[Any]:
    """Scores of three tasks on sources whose sizes (21 and 42) do not divide evenly among ranks."""
    data = {
        "a": concept_source("a", copies=2, concepts=21),
        "b": concept_source("b", copies=1, concepts=21, seed=1),
    }
    tasks = [
        retrieval(IMAGE, TEXT),
        retrieval({"source": "a", "modalities": ["audio", "image"]}, TEXT),
        task(type="knn", k=3, **LABELLED),
    ]
    return [list(evaluator(FakePredictor(), data)) for evaluator in tasks]


def all_pixels() -> str:
    source = concept_source(copies=1, concepts=7)
    pictures = torch.rand(7, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    source.vectors["image"][:] = list(pictures.numpy())
    found = PixelPredictor({}).encode_batches(source, ["image"])
    return repr((found.row_ids, found.groups, found.embedding["image"].tolist()))


def refuse() -> None:
    raise ValueError("only rank 0 knows")


def refuse_on_rank_1() -> None:
    if distributed.rank() == 1:
        raise ValueError("only rank 1 knows")


def evaluate(folder: Path, out: str, *more: str) -> int:
    """`mmfm eval` on the real model and real shards in `folder`."""
    data = folder / "data"
    places = [f"sources.{s}.path={data}" for s in ("train", "unseen")]
    run, suite = str(folder / "run"), str(SUITE)
    knn = ["tasks.shape_by_neighbours.k=5", "tasks.shape_by_neighbours.baseline=pixels"]
    fused = ["tasks.picture_and_caption.rerank=5", "tasks.written={type: caption, source: unseen}"]
    arguments = [run, suite, *places, *knn, *fused, "batch_size=4", "--out", str(folder / out)]
    return cli.main([*arguments, "--device", "cpu", *more])


def worker(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.update(WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    distributed.init()
    told = ""
    scores, pixels = all_scores(), all_pixels()
    try:
        on_main(refuse)
    except AgreedError as error:
        told = str(error)
    try:
        runner.agreed(refuse_on_rank_1)
    except AgreedError as error:
        told += f", {error}"
    code = evaluate(Path(folder), "two")  # ends the group
    Path(folder, f"rank{rank}").write_text(repr((scores, pixels, told, code)))


def test_two_ranks_give_the_scores_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_data(tmp_path / "data")
    small = {"type": "caption", "sources": ["image", "audio"], "width": 16, "heads": 2}
    matching = {"type": "matching", "pairs": [["image", "text"]]}
    make_checkpoint(tmp_path / "run", objectives={"caption": small, "matching": matching})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.multiprocessing.spawn(worker, (port, str(tmp_path)), nprocs=2)
    expected = repr((all_scores(), all_pixels(), "only rank 0 knows, only rank 1 knows", 0))
    assert (tmp_path / "rank0").read_text() == expected
    assert (tmp_path / "rank1").read_text() == expected

    assert evaluate(tmp_path, "one") == 0
    one, two = (json.loads((tmp_path / f / "results.json").read_text()) for f in ("one", "two"))
    assert one["protocol"] == two["protocol"]
    assert len(one["results"]) == len(two["results"]) == 20 + 10 + 5 + 2 + 2 + 4
    for ours, theirs in zip(one["results"], two["results"], strict=True):
        for key, value in ours.items():
            near = isinstance(value, float)
            assert theirs[key] == (pytest.approx(value, abs=1e-6) if near else value), ours
    names = {r["baseline_name"] for r in one["results"]}
    assert names == {
        "untrained network",
        "nearest pixels",
        "majority class",
        "the most frequent text",
    }
    for result in one["results"]:  # random weights: nothing may be far from chance
        if result["metric"].endswith(("R@1", "R@1_reranked")):
            assert result["value"] < 0.4
    assert np.isfinite([r["value"] for r in one["results"]]).all()
