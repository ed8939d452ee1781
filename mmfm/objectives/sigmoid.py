"""The pairwise sigmoid loss over the global batch (SigLIP, arXiv:2303.15343).

    objectives:
      sigmoid:
        type: sigmoid
        pairs: [[image, text], [audio, text], [audio+image, text]]

Each rank compares its own rows with all others, `chunk` of them at a time, so that memory goes by
`chunk` and not by the rows of a rank. Samples of equal `group` mean the same thing, so they are no
negatives of each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmfm import distributed
from mmfm.model import Model
from mmfm.objectives.base.pairs import EqualGroup, LogitScale, PairObjective, PairsConfig


@dataclass(kw_only=True)
class Config(PairsConfig):
    """The settings of `PairsConfig`; `logit_bias`: where the learned bias starts, by which a pair
    is at first unlikely; `chunk`: rows that are compared at a time.
    """

    temperature: float = 0.1
    logit_bias: float = -10.0
    chunk: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk < 1:
            raise ValueError(f"chunk = {self.chunk} must be at least 1")

    def build(self, model: Model) -> Sigmoid:
        return Sigmoid(self, model)


class LogitBias(nn.Module):
    """A learned number. A module of its own, so that ZeRO-3 gathers it wherever it is called."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.full((1,), start))

    def forward(self) -> Tensor:
        return self.bias.float()


class Sigmoid(PairObjective):
    """A binary decision for each two samples: do they belong together?"""

    def __init__(self, config: Config, model: Model) -> None:
        super().__init__(config.pairs, model)
        self.equal_group: EqualGroup = config.equal_group
        self.chunk = config.chunk
        self.logit_scale = LogitScale(
            config.temperature, config.max_logit_scale, config.learn_temperature
        )
        self.logit_bias = LogitBias(config.logit_bias)

    def scalars(self) -> dict[str, Tensor]:
        return {"logit_scale": self.logit_scale(), "logit_bias": self.logit_bias()}

    def compare(self, rows: dict[str, Tensor], scalars: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return sigmoid_loss(
            rows["a"],
            rows["b"],
            rows["group"],
            scalars["logit_scale"],
            scalars["logit_bias"],
            self.chunk,
            self.equal_group,
        )


def sigmoid_loss(
    a_NE: Tensor,
    b_NE: Tensor,
    group_N: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    chunk: int,
    equal_group: EqualGroup = "mask",
) -> tuple[Tensor, Tensor]:
    """The sum over this rank's N rows `a` and all ranks' rows `b`, and N; collective.

    Every rank must hold the same N. The gradient of the ranks' summed losses reaches every rank's
    embeddings. The logits of `chunk` rows are there at a time; the backward computes them again.
    With "positive", two samples of equal group belong together.
    """
    a_NE, b_NE = a_NE.float(), b_NE.float()
    b_ME = distributed.all_gather_rows_with_grad(b_NE)
    group_M = distributed.all_gather_rows(group_N)
    n = len(a_NE)
    own_N = distributed.rank() * n + torch.arange(n, device=a_NE.device)
    total = torch.zeros((), device=a_NE.device)
    chunks = (torch.split(x, chunk) for x in (a_NE, group_N, own_N))
    for a_CE, group_C, own_C in zip(*chunks, strict=True):
        total = total + checkpoint(
            _sum_of_rows,
            *(a_CE, group_C, own_C, b_ME, group_M, logit_scale, logit_bias, equal_group),
            use_reentrant=False,
            preserve_rng_state=False,
        )
    return total, torch.tensor(float(n), device=a_NE.device)


def _sum_of_rows(
    a_CE: Tensor,
    group_C: Tensor,
    own_C: Tensor,
    b_ME: Tensor,
    group_M: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    equal_group: EqualGroup,
) -> Tensor:
    logits_CM = logit_scale * (a_CE @ b_ME.T) + logit_bias
    own_CM = own_C[:, None] == torch.arange(len(b_ME), device=own_C.device)[None, :]
    equal_CM = group_C[:, None] == group_M[None, :]
    positive_CM = equal_CM if equal_group == "positive" else own_CM
    losses_CM = F.softplus(torch.where(positive_CM, -logits_CM, logits_CM))
    if equal_group == "mask":
        losses_CM = losses_CM.masked_fill(equal_CM & ~own_CM, 0.0)
    return losses_CM.sum()
