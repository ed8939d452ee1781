"""InfoNCE between pairs of embeddings, single or fused, over the global batch (CLIP,
arXiv:2103.00020).

    objectives:
      contrastive:
        type: contrastive
        pairs: [[image, text], [audio, text], [audio+image, text]]

A side with ``+`` is the fused embedding of those modalities. Each rank holds the logits of its own
rows only. Samples of equal `group` mean the same thing, so they are no negatives of each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmfm import distributed
from mmfm.model import Model
from mmfm.objectives.base.pairs import EqualGroup, LogitScale, PairObjective, PairsConfig

More = tuple[Tensor, Tensor]
"""Further negatives of one side: embeddings [K,E] and their groups [K]."""


@dataclass(kw_only=True)
class Config(PairsConfig):
    """The settings of `PairsConfig`."""

    def build(self, model: Model) -> Contrastive:
        return Contrastive(self, model)


class Contrastive(PairObjective):
    """Symmetric InfoNCE for each pair."""

    def __init__(self, config: PairsConfig, model: Model) -> None:
        super().__init__(config.pairs, model)
        self.equal_group: EqualGroup = config.equal_group
        self.logit_scale = LogitScale(
            config.temperature, config.max_logit_scale, config.learn_temperature
        )

    def scalars(self) -> dict[str, Tensor]:
        return {"logit_scale": self.logit_scale()}

    def compare(self, rows: dict[str, Tensor], scalars: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        more = [
            (rows[f"{key}_more"], rows[f"{key}_more_group"]) if f"{key}_more" in rows else None
            for key in ("a", "b")
        ]
        return info_nce(
            rows["a"],
            rows["b"],
            rows["group"],
            scalars["logit_scale"],
            self.equal_group,
            more_a=more[0],
            more_b=more[1],
        )


def info_nce(
    a_NE: Tensor,
    b_NE: Tensor,
    group_N: Tensor,
    logit_scale: Tensor,
    equal_group: EqualGroup = "mask",
    more_a: More | None = None,
    more_b: More | None = None,
) -> tuple[Tensor, Tensor]:
    """Symmetric InfoNCE of this rank's N pairs against those of all ranks; collective.

    Every rank must hold the same N. Sum over the local rows of the mean of both directions, and N.
    The gradient of the ranks' summed losses reaches every rank's embeddings. With "positive", rows
    of equal group are further positives and a row's loss is the mean over its positives (SupCon,
    arXiv:2004.11362, eq. 2). `more_a`, `more_b`: further negatives of each side, equally many on
    every rank, for the rows that are of another group.
    """
    a_NE, b_NE = a_NE.float(), b_NE.float()
    a_ME = distributed.all_gather_rows_with_grad(a_NE)
    b_ME = distributed.all_gather_rows_with_grad(b_NE)
    group_M = distributed.all_gather_rows(group_N)
    n, m = len(a_NE), len(a_ME)
    own_N = distributed.rank() * n + torch.arange(n, device=a_NE.device)
    own_NM = own_N[:, None] == torch.arange(m, device=a_NE.device)[None, :]
    equal_NM = group_N[:, None] == group_M[None, :]
    total = torch.zeros((), device=a_NE.device)
    for query_NE, key_ME, more in ((a_NE, b_ME, more_b), (b_NE, a_ME, more_a)):
        logits_NM = logit_scale * (query_NE @ key_ME.T)
        if equal_group == "mask":
            logits_NM = logits_NM.masked_fill(equal_NM & ~own_NM, -torch.inf)
            positive_N = logits_NM[own_NM]
        else:
            positive_N = (logits_NM * equal_NM).sum(1) / equal_NM.sum(1)
        if more is not None:
            logits_NM = torch.cat([logits_NM, _further(query_NE, group_N, logit_scale, more)], 1)
        total = total + (logits_NM.logsumexp(1) - positive_N).sum()
    return total / 2, torch.tensor(float(n), device=a_NE.device)


def _further(query_NE: Tensor, group_N: Tensor, logit_scale: Tensor, more: More) -> Tensor:
    """[N,all ranks' K]: the logits of further negatives; -inf where one is of the row's group."""
    key = distributed.all_gather_rows_with_grad(more[0].float())
    group = distributed.all_gather_rows(more[1])
    logits = logit_scale * (query_NE @ key.T)
    return logits.masked_fill(group_N[:, None] == group[None, :], -torch.inf)
