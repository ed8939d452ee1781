"""A number a sample, or a level of several in order, from any subset of modalities.

head: {type: regression, label: price, modalities: [image, text], loss: huber}
head: {type: regression, label: wind, order: [calm, breezy, stormy], loss: ordinal}

`label` is a field of the samples' ``numbers``, with `order` of their ``labels``, whose names are
the levels from 0 up. Numbers are learnt with mean 0 and deviation 1; what comes out is in their own
units.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mmfm.config import nearest
from mmfm.heads._pooled import PooledHead
from mmfm.heads.base import Metric
from mmfm.model import Model
from mmfm.types import IGNORE_INDEX, Batch, LabelKind, LossTerms


@dataclass(kw_only=True)
class Config:
    """`loss`: "mse"; "huber" with `delta`, in deviations of the numbers, behind which an error
    counts linearly; or "ordinal", for levels: whether each step between them is passed, which needs
    no level to be as far from the next as another. `mean` and `deviation` are those of the numbers
    that are trained on; unset, `mmfm finetune` works them out.
    """

    label: str
    modalities: list[str] = field(default_factory=lambda: ["image"])
    order: list[str] | None = None
    loss: Literal["mse", "huber", "ordinal"] = "mse"
    delta: float = 1.0
    mean: float | None = None
    deviation: float | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not self.modalities:
            raise ValueError("modalities must name at least one")
        if not self.delta > 0:
            raise ValueError(f"delta = {self.delta} must be above 0")
        if self.deviation is not None and not self.deviation > 0:
            raise ValueError(f"deviation = {self.deviation} must be above 0")
        if self.loss == "ordinal" and self.order is None:
            raise ValueError("loss = ordinal needs the levels in their order: order=[low, high]")
        if self.order is not None and (
            len(self.order) < 2 or len(set(self.order)) < len(self.order)
        ):
            raise ValueError(f"order = {self.order}: at least two levels, each once")

    @property
    def label_kind(self) -> LabelKind:
        """What of the samples' labels it learns."""
        return "number" if self.order is None else "class"

    def settle(self, targets: Iterable[Any]) -> None:
        """Work `mean` and `deviation` out, from the numbers or levels that are trained on."""
        levels = {name: place for place, name in enumerate(self.order or ())}
        numbers = [
            float(levels.get(str(value), math.nan)) if levels else float(value)
            for values in targets
            for value in values
        ]
        numbers = [number for number in numbers if math.isfinite(number)]
        if not numbers:
            raise ValueError(f"label = {self.label!r}: no training sample has such a number")
        mean = math.fsum(numbers) / len(numbers)
        spread = math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / len(numbers))
        if spread == 0 and len(numbers) > 1:
            raise ValueError(f"label = {self.label!r}: all numbers are {mean:g}: nothing to learn")
        self.mean = mean if self.mean is None else self.mean
        self.deviation = (spread or 1.0) if self.deviation is None else self.deviation

    def build(self, model: Model, label_names: Sequence[str]) -> RegressionHead:
        return RegressionHead(self, model, label_names)


def absolute_error(predicted: Mapping[str, NDArray[Any]], target: NDArray[Any]) -> NDArray[Any]:
    """[n]: by how much each sample is off."""
    return abs(predicted["value"] - target)


class RegressionHead(PooledHead):
    """A linear layer on the pooled features; levels are numbers from 0 up."""

    metrics: Mapping[str, Metric] = {"absolute_error": absolute_error}

    def __init__(self, config: Config, model: Model, label_names: Sequence[str]) -> None:
        steps = len(config.order or ()) - 1 if config.loss == "ordinal" else 1
        super().__init__(model, config.modalities, steps, config.dropout)
        self.label, self.order = config.label, config.order
        self.kind, self.delta = config.loss, config.delta
        # With the weights: a head that goes on from another one keeps that one's units.
        self.register_buffer("mean", torch.tensor([config.mean or 0.0]))
        self.register_buffer("deviation", torch.tensor([config.deviation or 1.0]))
        if config.order is not None:
            unknown = sorted(set(label_names) - set(config.order))
            if unknown:
                raise ValueError(
                    f"order: the data have the level {unknown[0]!r}"
                    f"{nearest(unknown[0], config.order)}"
                )
            levels = torch.tensor([config.order.index(name) for name in label_names])
            self.register_buffer("level_of", levels, persistent=False)

    level_of: Tensor
    mean: Tensor
    deviation: Tensor

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        _, known = self.target(batch, self.rows(batch))
        return {"regression": known.sum().double()}

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> LossTerms:
        target, known = self.target(batch, outputs["rows"])
        logits, target = outputs["logits"].float()[known], target[known]
        if self.kind == "ordinal":
            steps = torch.arange(logits.shape[1], device=logits.device)
            passed = (target[:, None] > steps).float()
            each = F.binary_cross_entropy_with_logits(logits, passed, reduction="none").sum(1)
        else:
            scaled = (target - self.mean) / self.deviation
            if self.kind == "huber":
                each = F.huber_loss(logits[:, 0], scaled, reduction="none", delta=self.delta)
            else:
                each = (logits[:, 0] - scaled).square()
        return {"regression": (each.sum(), known.sum())}

    def predict(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """`value` [n], in the numbers' own units; of levels what is expected, or with the ordinal
        loss how many steps are passed.
        """
        logits = outputs["logits"].float()
        if self.kind == "ordinal":
            value = (logits > 0).sum(1).float()
        else:
            value = logits[:, 0] * self.deviation + self.mean
        return {"value": value, "rows": outputs["rows"]}

    def target(self, batch: Batch, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The numbers or levels [n] float32, and for which of them there is one."""
        labels = batch["labels"][rows]
        if self.order is None:
            return labels, labels.isfinite()
        known = labels != IGNORE_INDEX
        return self.level_of[labels.clamp(min=0)].float(), known

    def answers(self, predicted: Mapping[str, Tensor], batch: Batch) -> list[Any]:
        """The ``value``, and of levels the nearest one as ``label``."""
        values = predicted["value"].tolist()
        if self.order is None:
            return [{"value": value} for value in values]
        top = len(self.order) - 1
        return [
            {"value": value, "label": self.order[min(max(round(value), 0), top)]}
            for value in values
        ]
