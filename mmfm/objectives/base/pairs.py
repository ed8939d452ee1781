"""What the objectives over pairs of embeddings share: the samples of a pair, their rows over the
whole step, the learned temperature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from mmfm.model import Model
from mmfm.negatives import having, of_step
from mmfm.objectives.base import (
    CachedObjective,
    ObjectiveConfig,
    ReadFeatures,
    intersect,
    zero_term,
)
from mmfm.types import Batch, Features, LossTerms, Read

EqualGroup = Literal["mask", "positive"]


@dataclass(kw_only=True)
class PairsConfig(ObjectiveConfig):
    """`pairs`: two sides each; `equal_group`: other samples of a row's group are masked out, or are
    further positives."""

    pairs: list[list[str]] = field(default_factory=lambda: [["image", "text"]])
    temperature: float = 0.07
    learn_temperature: bool = True
    max_logit_scale: float = 100.0
    equal_group: EqualGroup = "mask"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pairs(self.pairs)
        for pair in self.pairs:
            if set(pair[0].split("+")) & set(pair[1].split("+")):
                raise ValueError(f"pairs: the sides of {pair} share a modality; name each once")
        if not self.max_logit_scale > 0:
            raise ValueError(f"max_logit_scale = {self.max_logit_scale} must be above 0")
        if not 1 / self.max_logit_scale <= self.temperature:
            raise ValueError(
                f"temperature = {self.temperature} is below 1 / max_logit_scale = "
                f"{1 / self.max_logit_scale}"
            )


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


class PairObjective(CachedObjective):
    """Compares, for each pair, the samples of the whole step that have both sides. One term a pair,
    named by its sides, e.g. ``image_text``; a side with ``+`` is the fused embedding.
    """

    def __init__(self, pairs: list[list[str]], model: Model) -> None:
        super().__init__()
        self.pairs = [(side(a, model), side(b, model)) for a, b in pairs]
        if len({frozenset(pair) for pair in self.pairs}) < len(self.pairs):
            raise ValueError(f"pairs = {pairs!r}: two of them are the same")
        self.reads = tuple(dict.fromkeys(read for pair in self.pairs for read in pair))

    def counts(self, batch: Batch, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        counts = {}
        for a, b in self.pairs:
            both = present(a, batch) & present(b, batch) & of_step(batch)
            counts[_name(a, b)] = both.sum().double()
        return counts

    def rows(self, features: ReadFeatures, batch: Batch) -> dict[str, Tensor]:
        """For each pair the embeddings of both sides [n,E], where this micro-batch has them, and
        their group [n]; where it holds further negatives, ``a_more`` and ``b_more`` [k,E] with
        ``a_more_group`` and ``b_more_group`` [k].
        """
        rows: dict[str, Tensor] = {}
        own = of_step(batch)
        for a, b in self.pairs:
            name = _name(a, b)
            left, right = embedding(features[a], a), embedding(features[b], b)
            if left is None or right is None:
                rows[f"{name}.group"] = batch["group"][:0]
                continue
            pick_a, pick_b = intersect(left[1], right[1])
            chosen = own[left[1][pick_a]]
            pick_a, pick_b = pick_a[chosen], pick_b[chosen]
            rows[f"{name}.a"], rows[f"{name}.b"] = left[0][pick_a], right[0][pick_b]
            rows[f"{name}.group"] = batch["group"][left[1][pick_a]]
            if "negative" not in batch:
                continue
            for key, (found, samples) in (("a", left), ("b", right)):
                more = ~own[samples]
                rows[f"{name}.{key}_more"] = found[more]
                rows[f"{name}.{key}_more_group"] = batch["group"][samples[more]]
        return rows

    def loss(self, rows: dict[str, Tensor], scalars: dict[str, Tensor]) -> LossTerms:
        terms: LossTerms = {}
        for a, b in self.pairs:
            start = f"{_name(a, b)}."
            of_pair = {k.removeprefix(start): v for k, v in rows.items() if k.startswith(start)}
            there = "a" in of_pair
            terms[_name(a, b)] = (
                self.compare(of_pair, scalars) if there else zero_term(of_pair["group"])
            )
        return terms

    def compare(self, rows: dict[str, Tensor], scalars: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(sum, count) of one pair: its `rows` are ``a``, ``b`` [N,E] and ``group`` [N] of this
        rank, and maybe further negatives (see `rows`), every rank having equally many; collective.
        """
        raise NotImplementedError


def check_pairs(pairs: list[list[str]]) -> None:
    """ValueError unless `pairs` names two sides each."""
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"pairs = {pairs!r}: needs a list of pairs such as [image, text]")


def side(name: str, model: Model, setting: str = "pairs") -> Read:
    """The read of a side: ``image``, or the fused ``audio+image``. `setting`: where it is named."""
    modalities = tuple(sorted(name.split("+")))
    for modality in modalities:
        if modality not in model.encoders:
            valid = ", ".join(model.encoders)
            raise ValueError(f"{setting}: {name!r} names {modality!r}, the model has only {valid}")
    if len(set(modalities)) < len(modalities):
        raise ValueError(f"{setting}: {name!r} names a modality twice")
    if len(modalities) > 1 and model.fusion is None:
        raise ValueError(f"{setting}: {name!r} is a fused embedding, but model.fusion is null")
    return Read("clean", modalities, fused=len(modalities) > 1)


def present(read: Read, batch: Batch) -> Tensor:
    """[B] bool: the samples that have any of the side's modalities."""
    return having(batch["rows"], read.modalities, len(batch["sample_id"]))


def embedding(features: Features, read: Read) -> tuple[Tensor, Tensor] | None:
    """A side's embeddings [n,E] and their samples [n]; None where no sample has it."""
    key = "fused" if read.fused else read.modalities[0]
    return (features.embedding[key], features.rows[key]) if key in features.embedding else None


def _name(a: Read, b: Read) -> str:
    return f"{'+'.join(a.modalities)}_{'+'.join(b.modalities)}"
