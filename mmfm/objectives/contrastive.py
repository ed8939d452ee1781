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

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from mmfm import distributed
from mmfm.model import Model
from mmfm.objectives.base import CachedObjective, ObjectiveConfig, ReadFeatures, zero_term
from mmfm.types import Batch, Features, LossTerms, Read

EqualGroup = Literal["mask", "positive"]


@dataclass(kw_only=True)
class ContrastiveConfig(ObjectiveConfig):
    """`pairs`: two sides each; `equal_group`: other samples of a row's group are masked out, or are
    further positives."""

    pairs: list[list[str]] = field(default_factory=lambda: [["image", "text"]])
    temperature: float = 0.07
    learn_temperature: bool = True
    max_logit_scale: float = 100.0
    equal_group: EqualGroup = "mask"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.pairs or any(len(pair) != 2 for pair in self.pairs):
            raise ValueError(f"pairs = {self.pairs!r}: needs a list of pairs such as [image, text]")
        if not self.max_logit_scale > 0:
            raise ValueError(f"max_logit_scale = {self.max_logit_scale} must be above 0")
        if not 1 / self.max_logit_scale <= self.temperature:
            raise ValueError(
                f"temperature = {self.temperature} is below 1 / max_logit_scale = "
                f"{1 / self.max_logit_scale}"
            )


@dataclass(kw_only=True)
class Config(ContrastiveConfig):
    """The settings of `ContrastiveConfig`."""

    def build(self, model: Model) -> Contrastive:
        return Contrastive(self, model)


class LogitScale(nn.Module):
    """exp of a learned logarithm, clamped. A module of its own, so that ZeRO-3 gathers it wherever
    it is called.
    """

    def __init__(self, temperature: float, maximum: float, learn: bool) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((1,), -math.log(temperature)), requires_grad=learn)
        self.maximum = math.log(maximum)

    def forward(self) -> Tensor:
        return self.log_scale.float().clamp(max=self.maximum).exp()


class Contrastive(CachedObjective):
    """Symmetric InfoNCE for each pair; the terms are named by their sides, e.g. ``image_text``."""

    def __init__(self, config: ContrastiveConfig, model: Model) -> None:
        super().__init__()
        self.pairs = [(_side(a, model), _side(b, model)) for a, b in config.pairs]
        self.reads = tuple(dict.fromkeys(side for pair in self.pairs for side in pair))
        self.equal_group: EqualGroup = config.equal_group
        self.logit_scale = LogitScale(
            config.temperature, config.max_logit_scale, config.learn_temperature
        )

    def counts(self, batch: Batch, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        counts = {}
        for a, b in self.pairs:
            size = len(batch["sample_id"])
            both = _present(a, batch, size) & _present(b, batch, size)
            counts[_name(a, b)] = both.sum().double()
        return counts

    def rows(self, features: ReadFeatures, batch: Batch) -> dict[str, Tensor]:
        """For each pair that this micro-batch has: embeddings of both sides [n,E], and their group
        [n].
        """
        rows: dict[str, Tensor] = {}
        for a, b in self.pairs:
            left, right = _embedding(features[a], a), _embedding(features[b], b)
            if left is None or right is None:
                continue
            pick_a, pick_b = intersect(left[1], right[1])
            name = _name(a, b)
            rows[f"{name}.a"], rows[f"{name}.b"] = left[0][pick_a], right[0][pick_b]
            rows[f"{name}.group"] = batch["group"][left[1][pick_a]]
        return rows

    def scalars(self) -> dict[str, Tensor]:
        return {"logit_scale": self.logit_scale()}

    def loss(self, rows: dict[str, Tensor], scalars: dict[str, Tensor]) -> LossTerms:
        terms: LossTerms = {}
        for a, b in self.pairs:
            name = _name(a, b)
            if f"{name}.a" not in rows:
                terms[name] = zero_term(scalars["logit_scale"])
                continue
            terms[name] = info_nce(
                rows[f"{name}.a"],
                rows[f"{name}.b"],
                rows[f"{name}.group"],
                scalars["logit_scale"],
                self.equal_group,
            )
        return terms


def info_nce(
    a_NE: Tensor,
    b_NE: Tensor,
    group_N: Tensor,
    logit_scale: Tensor,
    equal_group: EqualGroup = "mask",
) -> tuple[Tensor, Tensor]:
    """Symmetric InfoNCE of this rank's N pairs against those of all ranks; collective.

    Every rank must hold the same N. Sum over the local rows of the mean of both directions, and N.
    The gradient of the ranks' summed losses reaches every rank's embeddings. With "positive", rows
    of equal group are further positives and a row's loss is the mean over its positives (SupCon,
    arXiv:2004.11362, eq. 2).
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
    for query_NE, key_ME in ((a_NE, b_ME), (b_NE, a_ME)):
        logits_NM = logit_scale * (query_NE @ key_ME.T)
        if equal_group == "mask":
            logits_NM = logits_NM.masked_fill(equal_NM & ~own_NM, -torch.inf)
            positive_N = logits_NM[own_NM]
        else:
            positive_N = (logits_NM * equal_NM).sum(1) / equal_NM.sum(1)
        total = total + (logits_NM.logsumexp(1) - positive_N).sum()
    return total / 2, torch.tensor(float(n), device=a_NE.device)


def intersect(rows_a: Tensor, rows_b: Tensor) -> tuple[Tensor, Tensor]:
    """Positions in two ascending lists of sample indices where both hold the same sample: two int64
    [n].
    """
    return torch.isin(rows_a, rows_b).nonzero()[:, 0], torch.isin(rows_b, rows_a).nonzero()[:, 0]


def _side(name: str, model: Model) -> Read:
    modalities = tuple(sorted(name.split("+")))
    for modality in modalities:
        if modality not in model.encoders:
            valid = ", ".join(model.encoders)
            raise ValueError(f"pairs: {name!r} names {modality!r}, the model has only {valid}")
    if len(modalities) > 1 and model.fusion is None:
        raise ValueError(f"pairs: {name!r} is a fused embedding, but model.fusion is null")
    return Read("clean", modalities, fused=len(modalities) > 1)


def _name(a: Read, b: Read) -> str:
    return f"{'+'.join(a.modalities)}_{'+'.join(b.modalities)}"


def _present(side: Read, batch: Batch, size: int) -> Tensor:
    present = torch.zeros(size, dtype=torch.bool, device=batch["group"].device)
    for modality in side.modalities:
        if modality in batch["rows"]:
            present[batch["rows"][modality]] = True
    return present


def _embedding(features: Features, side: Read) -> tuple[Tensor, Tensor] | None:
    key = "fused" if side.fused else side.modalities[0]
    return (features.embedding[key], features.rows[key]) if key in features.embedding else None
