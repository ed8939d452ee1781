"""The losses over all samples of a step: two ranks with half of the rows each against one."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from mmfm import distributed
from mmfm.objectives._distillation.logit import affinity_loss
from mmfm.objectives.contrastive import info_nce
from mmfm.objectives.sigmoid import sigmoid_loss

N, HALF = 12, 6
GROUPS = torch.tensor([0, 1, 2, 0, 3, 4, 1, 5, 0, 6, 7, 8])
CASES = (
    "info_nce mask",
    "info_nce positive",
    "info_nce further",
    "sigmoid mask",
    "sigmoid positive",
    "affinity",
)


def run(case: str, rows: slice) -> list[Tensor]:
    """(sum, count) of those rows, and the gradients of the sum at a, b, scale and bias."""
    generator = torch.Generator().manual_seed(0)
    made = torch.nn.functional.normalize(torch.randn(4, N, 8, generator=generator), dim=-1)
    a, b, teacher_a, teacher_b = (x[rows].requires_grad_() for x in made.unbind())
    scale, bias = torch.tensor([7.0]).requires_grad_(), torch.tensor([-3.0]).requires_grad_()
    name, _, how = case.partition(" ")
    if how == "further":
        further = [(b[::2], GROUPS[rows][::2]), (a[::2], GROUPS[rows][::2] + 3)]
        total, count = info_nce(a, b, GROUPS[rows], scale, "mask", *further)
    elif name == "info_nce":
        total, count = info_nce(a, b, GROUPS[rows], scale, how)
    elif name == "sigmoid":
        total, count = sigmoid_loss(a, b, GROUPS[rows], scale, bias, 4, how)
    else:
        total, count = affinity_loss((a, b), (teacher_a, teacher_b), 0.2)
        assert (
            torch.autograd.grad(total, teacher_a, retain_graph=True, allow_unused=True)[0] is None
        )
    found = torch.autograd.grad(total, (a, b, scale, bias), allow_unused=True)
    return [total.detach(), count, *(torch.zeros(1) if g is None else g for g in found)]


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{Path(folder, 'port').read_text()}"
    torch.distributed.init_process_group("gloo", address, rank=rank, world_size=2)
    rows = slice(rank * HALF, rank * HALF + HALF)
    torch.save({case: run(case, rows) for case in CASES}, f"{folder}/{rank}.pt")
    distributed.shutdown()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> list[dict[str, list[Tensor]]]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        (folder / "port").write_text(str(probe.getsockname()[1]))
    mp.spawn(_rank, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_local_losses_of_two_ranks_equal_the_global_one(two_ranks, case: str) -> None:
    """Losses, and the gradients of the sum of both ranks' losses; each rank has 6 of 12 rows."""
    total, count, *want = run(case, slice(0, N))
    parts = [ranks[case] for ranks in two_ranks]
    assert sum(p[1].item() for p in parts) == count.item() == 12
    assert sum(p[0].item() for p in parts) == pytest.approx(total.item(), rel=1e-6)
    assert parts[0][0].item() != pytest.approx(parts[1][0].item(), rel=1e-3)
    got = [torch.cat([p[i] for p in parts]) for i in (2, 3)]
    got += [parts[0][i] + parts[1][i] for i in (4, 5)]
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
