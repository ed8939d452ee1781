"""What every objective offers: the reads it needs, the masks it draws, and losses as (sum, count).

An objective is a module below `mmfm.objectives` with a dataclass `Config` whose `build(model)`
returns an `Objective`. It holds only parameters of its own (a temperature, a decoder) and knows no
trainer. `base.pairs` has what objectives over pairs of embeddings share, `base.masked` what those
that predict what a mask hides share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from mmfm.types import Batch, Features, LossTerms, Read

ReadFeatures = dict[Read, Features]


@dataclass(kw_only=True)
class ObjectiveConfig:
    """The settings that all objectives share: the weight of its loss in the step's loss, by step.

    The weight is 0 before `start_step`, reaches `weight` in equal parts over `ramp_steps` steps,
    and is 0 again from `end_step` on. Steps count from 0.

    `for_training_only`: a trained model is opened without it, so what it needs may be gone by then.
    """

    for_training_only: ClassVar[bool] = False

    weight: float = 1.0
    start_step: int = 0
    ramp_steps: int = 0
    end_step: int | None = None

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(
                f"weight must be above 0, not {self.weight}; leave the objective out instead"
            )
        for name in ("start_step", "ramp_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)} must not be negative")
        if self.end_step is not None and self.end_step <= self.start_step:
            raise ValueError(
                f"end_step = {self.end_step} must be above start_step = {self.start_step}"
            )

    @property
    def scheduled(self) -> bool:
        """Whether the weight is another one in some steps."""
        return self.start_step > 0 or self.ramp_steps > 1 or self.end_step is not None

    def weight_at(self, step: int) -> float:
        """The weight in `step` (from 0)."""
        if step < self.start_step or (self.end_step is not None and step >= self.end_step):
            return 0.0
        return self.weight * min(1.0, (step - self.start_step + 1) / max(1, self.ramp_steps))


class Objective(nn.Module):
    """A pretraining loss. `reads` names its inputs; `masks` the share of each modality that it
    hides; `raw` the modalities whose inputs it reads itself.
    """

    reads: tuple[Read, ...] = ()
    raw: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.masks: dict[str, float] = {}

    def prepare(self, batch: Batch) -> Batch:
        """`batch` with what needs no gradient and is computed once, though grad_cache takes a
        micro-batch through the model twice.
        """
        return batch

    def counts(self, batch: Batch, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """The counts that `forward` will return, known before any encoder runs: 0-d float64
        tensors.
        """
        raise NotImplementedError

    def forward(self, features: ReadFeatures, batch: Batch) -> LossTerms:
        """Losses of this rank's micro-batch: name ▶ (sum, count)."""
        raise NotImplementedError


class CachedObjective(Objective):
    """An objective whose loss compares all samples of the global batch, through few numbers a
    sample.

    The loss is ``loss(rows(features, batch), scalars())``.

    `rows` are those numbers; rows of several micro-batches are concatenated, so the loss over a
    whole step can be taken from them and its gradient handed back to each micro-batch (grad_cache;
    Gao et al. 2021, arXiv:2101.06983).
    """

    def rows(self, features: ReadFeatures, batch: Batch) -> dict[str, Tensor]:
        """Tensors with one row a sample; floating ones carry the gradient."""
        raise NotImplementedError

    def scalars(self) -> dict[str, Tensor]:
        """Values of the objective's own parameters that the loss needs, with gradient."""
        return {}

    def loss(self, rows: dict[str, Tensor], scalars: dict[str, Tensor]) -> LossTerms:
        """Losses of this rank's rows against the rows of all ranks; collective."""
        raise NotImplementedError

    def forward(self, features: ReadFeatures, batch: Batch) -> LossTerms:
        return self.loss(self.rows(features, batch), self.scalars())


class Reconstruction(NamedTuple):
    """At every grid position: whether it was `masked` [B,G], what stands there, what is
    predicted.
    """

    masked: Tensor
    target: Tensor
    predicted: Tensor


class MaskedObjective(Objective):
    """Predicts what a mask hides of one `modality`; one term, ``masked_<modality>``, counted in
    masked positions.
    """

    modality: str

    def counts(self, batch: Batch, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.modality not in masks:
            return {self.term: zero_term(batch["group"])[1].double()}
        return {self.term: masks[self.modality].sum().double()}

    def forward(self, features: ReadFeatures, batch: Batch, each: bool = False) -> LossTerms:
        """With `each` not (sum, count), but (error [N], prediction [N,…]) at the N masked
        positions, row by row; no term at all where no sample has the modality.
        """
        found = features[self.reads[0]]
        if self.modality not in found.masked:
            return {} if each else {self.term: zero_term(batch["group"])}
        error_N, prediction_N = self.at_masked(found)
        if each:
            return {self.term: (error_N, prediction_N)}
        return {self.term: (error_N.sum(), found.masked[self.modality].sum())}

    @property
    def term(self) -> str:
        return f"masked_{self.modality}"

    def at_masked(self, found: Features) -> tuple[Tensor, Tensor]:
        """(error [N], prediction [N,…]) at the masked positions, row by row."""
        raise NotImplementedError

    def target(self, stands_BG: Tensor) -> Tensor:
        """What is to be predicted [B,G,…], from what stands there (see `Features.targets`)."""
        return stands_BG

    def seen(self, found: Features) -> Tensor:
        """The tokens that it predicts from."""
        return (found.fused if self.reads[0].fused else found.tokens)[self.modality]


def zero_term(like: Tensor) -> tuple[Tensor, Tensor]:
    """The term of a loss that has nothing to compare in this micro-batch."""
    return torch.zeros((), device=like.device), torch.zeros((), device=like.device)


def intersect(rows_a: Tensor, rows_b: Tensor) -> tuple[Tensor, Tensor]:
    """Positions in two ascending lists of sample indices where both hold the same sample: two int64
    [n].
    """
    return torch.isin(rows_a, rows_b).nonzero()[:, 0], torch.isin(rows_b, rows_a).nonzero()[:, 0]
