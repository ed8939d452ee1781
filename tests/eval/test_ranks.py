"""Two processes give the scores of one, on every rank; an error on rank 0 reaches the other."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from mmfm_eval.pixels import PixelPredictor
from mmfm_eval.tasks.base import AgreedError, on_main

from mmfm import distributed
from tests.eval.fakes import IMAGE, LABELLED, TEXT, FakePredictor, concept_source, retrieval, task


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


def _refuse() -> None:
    raise ValueError("only rank 0 knows")


def _worker(rank: int, port: int, folder: str) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank)
    )
    torch.set_num_threads(1)
    distributed.init()
    try:
        told = ""
        scores = all_scores()
        pixels = PixelPredictor({}).encode_batches(picture_source(), ["image"])
        try:
            on_main(_refuse)
        except AgreedError as error:
            told = str(error)
    finally:
        distributed.shutdown()
    Path(folder, str(rank)).write_text(repr((scores, pixels, told)))


def picture_source() -> Any:
    source = concept_source(copies=1, concepts=7)
    pictures = torch.rand(7, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    source.vectors["image"][:] = list(pictures.numpy())
    return source


def test_two_ranks_give_the_scores_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.multiprocessing.spawn(_worker, (port, str(tmp_path)), nprocs=2)
    pixels = PixelPredictor({}).encode_batches(picture_source(), ["image"])
    expected = repr((all_scores(), pixels, "only rank 0 knows"))
    assert (tmp_path / "0").read_text() == expected
    assert (tmp_path / "1").read_text() == expected
