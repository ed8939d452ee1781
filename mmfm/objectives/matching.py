"""Whether the fused parts of a sample belong together, against hard negatives (ALBEF,
arXiv:2107.07651).

    objectives:
      matching:
        type: matching
        pairs: [[image, text], [audio+image, text]]

For each sample that has both sides of a pair, the fusion sees the sample itself, and twice a
mismatch: one side is that of another sample (`mmfm.negatives`). A linear layer on the pooled
output, the same for all pairs, tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfm.layers.transformer import init_weights
from mmfm.model import FUSED, Model
from mmfm.negatives import having, negatives_exist, of_step, streams
from mmfm.objectives.base import Objective, ObjectiveConfig, ReadFeatures, zero_term
from mmfm.objectives.base.pairs import check_pairs
from mmfm.types import Batch, LossTerms, Read

Side = tuple[str, ...]


@dataclass(kw_only=True)
class Config(ObjectiveConfig):
    """`pairs`: two sides each, a side is one modality or several with ``+``. `temperature`: that of
    the draw of the negatives; the lower, the harder they are.
    """

    pairs: list[list[str]] = field(default_factory=lambda: [["image", "text"]])
    temperature: float = 0.07

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pairs(self.pairs)
        if not self.temperature > 0:
            raise ValueError(f"temperature = {self.temperature} must be above 0")

    def build(self, model: Model) -> Matching:
        return Matching(self, model)


class _Pair(NamedTuple):
    """The two sides, and the reads of the samples themselves and of either mismatch."""

    a: Side
    b: Side
    own: Read
    mismatched: tuple[Read, Read]

    @property
    def name(self) -> str:
        return f"{'+'.join(self.a)}_{'+'.join(self.b)}"


class Matching(Objective):
    """Binary cross-entropy; one term a pair, named by its sides, e.g. ``image_text``, counted in
    samples and negatives.
    """

    def __init__(self, config: Config, model: Model) -> None:
        super().__init__()
        if model.fusion is None:
            raise ValueError("matching judges fused features, but model.fusion is null")
        self.pairs = [_pair(a, b, config.temperature, model) for a, b in config.pairs]
        if len({pair.own for pair in self.pairs}) < len(self.pairs):
            raise ValueError(f"pairs = {config.pairs!r}: two of them are of the same modalities")
        self.reads = tuple(read for pair in self.pairs for read in (pair.own, *pair.mismatched))
        self.classify = nn.Linear(model.fusion.width, 1)
        self.classify.apply(init_weights)

    def counts(self, batch: Batch, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        counts = {}
        for pair in self.pairs:
            both = self._both(pair, batch)
            with_negatives = negatives_exist(batch["group"][both], streams(batch)[both])
            counts[pair.name] = (both.sum() + 2 * with_negatives.sum()).double()
        return counts

    def forward(self, features: ReadFeatures, batch: Batch) -> LossTerms:
        return {pair.name: self._loss(pair, features, batch) for pair in self.pairs}

    def probability(self, fused_pooled_ND: Tensor) -> Tensor:
        """[N,D] `fused_pooled` of any fused read ▶ [N] float32: the probability that what was fused
        belongs together, beside two hard negatives for each match.
        """
        return self.logits(fused_pooled_ND).sigmoid()

    def _loss(self, pair: _Pair, features: ReadFeatures, batch: Batch) -> tuple[Tensor, Tensor]:
        own, *others = (features[read] for read in (pair.own, *pair.mismatched))
        mismatches = [found.fused_pooled for found in others if found.fused_pooled is not None]
        both = self._both(pair, batch)
        if own.fused_pooled is None or not both.any():
            return zero_term(batch["group"])
        matches = own.fused_pooled[both[own.rows[FUSED]]]
        # Whether any sample has a negative may differ from rank to rank, and none is no reason to
        # leave the fusion out: under ZeRO-3 all ranks must run it.
        logits = self.logits(torch.cat([matches, *mismatches]))
        belong = torch.arange(len(logits), device=logits.device) < len(matches)
        total = F.binary_cross_entropy_with_logits(logits, belong.to(logits), reduction="sum")
        return total, torch.tensor(float(len(logits)), device=logits.device)

    def logits(self, fused_pooled_ND: Tensor) -> Tensor:
        """[N] float32, of which `probability` is the sigmoid."""
        logits: Tensor = self.classify(fused_pooled_ND)[:, 0].float()
        return logits

    @staticmethod
    def _both(pair: _Pair, batch: Batch) -> Tensor:
        """[B] bool: the samples that have both sides."""
        rows, size = batch["rows"], len(batch["sample_id"])
        return having(rows, pair.a, size) & having(rows, pair.b, size) & of_step(batch)


def _pair(a: str, b: str, temperature: float, model: Model) -> _Pair:
    sides = [tuple(sorted(side.split("+"))) for side in (a, b)]
    both = tuple(sorted(sides[0] + sides[1]))
    for modality in both:
        if modality not in model.encoders:
            valid = ", ".join(model.encoders)
            raise ValueError(f"pairs: [{a}, {b}] names {modality!r}, the model has only {valid}")
    if len(set(both)) < len(both):
        raise ValueError(f"pairs: the sides of [{a}, {b}] share a modality; name each once")
    mismatched = [
        Read("clean", both, fused=True, replaced=side, temperature=temperature)
        for side in reversed(sides)
    ]
    return _Pair(
        sides[0], sides[1], Read("clean", both, fused=True), (mismatched[0], mismatched[1])
    )
