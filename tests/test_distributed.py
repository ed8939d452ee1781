"""Collectives with one process and with two: order of ranks, gradients, how a group starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from mmfm import distributed

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def test_one_process_needs_no_group(monkeypatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if dist.is_initialized():
        pytest.skip("another test of this process has started a group")
    distributed.init()
    assert not dist.is_initialized()
    assert (distributed.rank(), distributed.world_size(), distributed.local_rank()) == (0, 1, 0)
    assert distributed.launched_world_size() == 1
    assert distributed.is_main()
    distributed.barrier()
    x = torch.arange(3.0, requires_grad=True)
    assert distributed.all_gather_rows(x) is x
    distributed.all_gather_rows_with_grad(x).sum().backward()
    assert x.grad.tolist() == [1, 1, 1]
    assert distributed.all_reduce_sum(torch.ones(2)).tolist() == [1, 1]
    assert distributed.all_gather_object("a") == ["a"]
    assert distributed.broadcast_object("a") == "a"
    distributed.shutdown()


def test_the_launchers_world_size_is_known_before_the_group(monkeypatch) -> None:
    if dist.is_initialized():
        pytest.skip("another test of this process has started a group")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert distributed.launched_world_size() == 4
    assert distributed.world_size() == 1
    assert distributed.local_rank() == 3


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = Path(folder, "port").read_text()
    distributed.init()
    seen = {
        "rank": distributed.rank(),
        "size": distributed.world_size(),
        "main": distributed.is_main(),
        "sum": distributed.all_reduce_sum(torch.tensor([rank + 1.0])).tolist(),
        "objects": distributed.all_gather_object({"rank": rank}),
        "broadcast": distributed.broadcast_object(f"from {rank}"),
        "rows": distributed.all_gather_rows(torch.tensor([[rank], [rank + 10]]).T[:, :1]).tolist(),
    }
    # Each rank's loss looks at all rows with weights of its own: the gradient of the sum of both.
    x = torch.tensor([1.0 + rank, 2.0 + rank], requires_grad=True)
    weights = torch.arange(4.0) + 10 * rank
    (distributed.all_gather_rows_with_grad(x) ** 2 * weights).sum().backward()
    seen["grad"] = x.grad.tolist()
    # What else takes part in the same sum must not feel the all-reduce.
    other, y = torch.zeros(4, requires_grad=True), torch.ones(2, requires_grad=True)
    before = other * 1.0  # made first, so its backward comes after that of the gathering
    (distributed.all_gather_rows_with_grad(y) + before).backward(torch.full((4,), 1.0 + rank))
    seen["other"] = other.grad.tolist()
    seen["y"] = y.grad.tolist()
    distributed.barrier()
    distributed.shutdown()
    seen["after"] = (dist.is_initialized(), distributed.world_size())
    torch.save(seen, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict]:
    import socket

    import torch.multiprocessing as mp

    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        (folder / "port").write_text(str(probe.getsockname()[1]))
    mp.spawn(_rank, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{r}.pt") for r in (0, 1)]


def test_two_ranks_know_themselves(two) -> None:
    for rank, seen in enumerate(two):
        assert (seen["rank"], seen["size"], seen["main"]) == (rank, 2, rank == 0)
        assert seen["after"] == (False, 1)


def test_two_ranks_exchange_in_rank_order(two) -> None:
    for seen in two:
        assert seen["sum"] == [3.0]
        assert seen["objects"] == [{"rank": 0}, {"rank": 1}]
        assert seen["broadcast"] == "from 0"
        assert seen["rows"] == [[0], [1]]


def test_gradients_of_all_ranks_losses_come_back(two) -> None:
    x = torch.tensor([1.0, 2.0, 2.0, 3.0], requires_grad=True)
    (x**2 * (torch.arange(4.0) + torch.arange(4.0) + 10)).sum().backward()
    assert two[0]["grad"] + two[1]["grad"] == x.grad.tolist()


def test_the_all_reduce_touches_no_other_gradient(two) -> None:
    for rank, seen in enumerate(two):
        assert seen["other"] == [1.0 + rank] * 4
        assert seen["y"] == [3.0, 3.0]


def test_a_gpu_can_be_left_alone(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    assert distributed.device().type == "cuda"
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert not distributed.on_gpu()
    assert distributed.device().type == "cpu"
