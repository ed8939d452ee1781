"""What the losses over the global batch hold in memory: InfoNCE and the sigmoid loss.

    python benchmarks/contrastive_memory.py [--batch 8192] [--width 512] [--ranks 8] [--chunk 256]

Each is run forward and backward in a process of its own, on a GPU where there is one: by one rank
that holds all rows, and by one of several that holds its share. There the rows of the other ranks
are made up instead of gathered, which takes the same memory. Beside mmfm's sigmoid loss stands the
plain one, all its logits at once. Printed is the peak above what the embeddings take, as markdown.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from mmfm import distributed
from mmfm.objectives.contrastive import info_nce
from mmfm.objectives.sigmoid import sigmoid_loss

LOSSES = ("InfoNCE", "sigmoid, plain", "sigmoid, chunked")


def pretend_to_be_one_of(ranks: int) -> None:
    """Gathering gives this rank's rows and, in place of the others', copies of them."""
    distributed.all_gather_rows_with_grad = lambda x: torch.cat([x, *[x.detach()] * (ranks - 1)])
    distributed.all_gather_rows = lambda x: torch.arange(len(x) * ranks, device=x.device)


def loss_of(name: str, a: Tensor, b: Tensor, chunk: int) -> Tensor:
    group = torch.arange(len(a), device=a.device)
    scale, bias = (torch.tensor([x], device=a.device, requires_grad=True) for x in (10.0, -10.0))
    if name == "InfoNCE":
        return info_nce(a, b, group, scale)[0]
    if name == "sigmoid, chunked":
        return sigmoid_loss(a, b, group, scale, bias, chunk)[0]
    logits = scale * (a @ distributed.all_gather_rows_with_grad(b).T) + bias
    sign = 2 * torch.eye(*logits.shape, device=a.device) - 1
    return -F.logsigmoid(sign * logits).sum()


def measure(name: str, rows: int, ranks: int, width: int, chunk: int) -> float:
    """Peak MiB above the embeddings, of a forward and backward by one of `ranks`."""
    device = distributed.device()
    pretend_to_be_one_of(ranks)

    def run(n: int) -> None:
        pair = torch.randn(2, n, width, device=device)
        a, b = (F.normalize(x, dim=-1).requires_grad_() for x in pair)
        loss_of(name, a, b, chunk).backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run(8)  # what the libraries allocate once
    embeddings = 2 * 4 * 2 * rows * width  # both sides, and before they are normalised
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        with open("/proc/self/statm") as file:
            before = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    run(rows)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (peak - before - embeddings) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--case", nargs=2, metavar=("LOSS", "RANKS"), help="measure this one only")
    given = parser.parse_args()
    if given.case:
        name, ranks = given.case[0], int(given.case[1])
        print(measure(name, given.batch // ranks, ranks, given.width, given.chunk))
        return
    print(f"Global batch {given.batch:,}, embedding {given.width}, chunk {given.chunk}\n")
    print("| loss | rows of the rank × of all | peak, MiB | one matrix of logits, MiB |")
    print("| --- | --- | --- | --- |")
    for name in LOSSES:
        for ranks in (1, given.ranks):
            words = [sys.executable, __file__, *sys.argv[1:], "--case", name, str(ranks)]
            # Or glibc keeps what was freed, sometimes more and sometimes less.
            environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
            done = subprocess.run(
                words, check=True, stdout=subprocess.PIPE, text=True, env=environment
            )
            rows = given.batch // ranks
            matrix = 4 * rows * given.batch / 2**20
            print(
                f"| {name} | {rows:,} × {given.batch:,} | {float(done.stdout):,.0f} "
                f"| {matrix:,.0f} |"
            )


if __name__ == "__main__":
    main()
