"""One label a sample, or several, from any subset of modalities, through the fusion transformer or
one encoder.

head: {type: classification, label: category, modalities: [image, text]}
head: {type: classification, label: genres, multi_label: true, focal: 2.0}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmfm.config import nearest
from mmfm.heads import _losses
from mmfm.heads._mixing import MixConfig, check_mixable, mix, mixed
from mmfm.heads._pooled import PooledHead
from mmfm.heads.base import Metric
from mmfm.model import Model
from mmfm.types import IGNORE_INDEX, Batch, LabelKind, LossTerms


@dataclass(kw_only=True)
class Config:
    """`label`: the field of the samples' labels; several `modalities` are fused, a single one is
    taken as it is. `multi_label`: a sample has a list of labels, each of which is told by itself.
    `class_weights` by name (1 where there is none), or "balanced" by the training data: what a
    sample of the class counts, with `multi_label` one that has it. `focal`: the exponent of the
    focal loss (arXiv:1708.02002). `mix`: see `mmfm.heads._mixing`.
    """

    label: str
    modalities: list[str] = field(default_factory=lambda: ["image"])
    multi_label: bool = False
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    label_smoothing: float = 0.0
    focal: float = 0.0
    dropout: float = 0.0
    mix: MixConfig = field(default_factory=MixConfig)

    def __post_init__(self) -> None:
        if not self.modalities:
            raise ValueError("modalities must name at least one")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing = {self.label_smoothing} must be in [0, 1)")
        if self.focal < 0:
            raise ValueError(f"focal = {self.focal} must not be negative")
        if isinstance(self.class_weights, dict):
            for name, weight in self.class_weights.items():
                if not weight > 0:
                    raise ValueError(f"class_weights: {name} = {weight} must be above 0")

    @property
    def label_kind(self) -> LabelKind:
        """What of the samples' labels it learns."""
        return "set" if self.multi_label else "class"

    def settle(self, targets: Iterable[Any]) -> None:
        """Work "balanced" out, from the labels of the samples that are trained on.

        A class that has 1/K of the labels weighs 1; with `multi_label` the samples that have a
        label weigh together as much as those that don't.
        """
        if self.class_weights != "balanced":
            return
        targets = list(targets)
        counts = Counter(name for names in targets for name in set(names))
        some = sum(bool(names) for names in targets)
        self.class_weights = {
            name: max(some - n, 1) / n if self.multi_label else some / (len(counts) * n)
            for name, n in sorted(counts.items())
        }

    def build(self, model: Model, label_names: Sequence[str]) -> ClassificationHead:
        if self.multi_label:
            return MultiLabelHead(self, model, label_names)
        return ClassificationHead(self, model, label_names)


def correct(predicted: Mapping[str, NDArray[Any]], labels: NDArray[Any]) -> NDArray[np.bool_]:
    """[n] bool: the samples whose label is predicted."""
    return np.asarray(predicted["label"] == labels)


def all_correct(predicted: Mapping[str, NDArray[Any]], labels: NDArray[Any]) -> NDArray[np.bool_]:
    """[n] bool: the samples of which just the labels are predicted that they have."""
    return np.asarray(((predicted["probability"] >= 0.5) == labels.astype(bool)).all(1))


class ClassificationHead(PooledHead):
    """A linear layer on the pooled features; a sample without any of the modalities has no row to
    learn from.
    """

    metrics: Mapping[str, Metric] = {"accuracy": correct}
    each_loss = staticmethod(_losses.soft_cross_entropy)

    def __init__(self, config: Config, model: Model, label_names: Sequence[str]) -> None:
        if len(label_names) < 2 and not config.multi_label:
            raise ValueError(
                f"label {config.label!r} has {len(label_names)} name: nothing to tell apart"
            )
        super().__init__(model, config.modalities, len(label_names), config.dropout)
        self.label = config.label
        self.label_names = list(label_names)
        self.label_smoothing, self.focal = config.label_smoothing, config.focal
        self.mix = config.mix
        check_mixable(config.mix, self.read, model)
        weight = torch.ones(len(label_names))
        given = config.class_weights
        if given == "balanced":
            raise ValueError('class_weights = "balanced" is worked out by mmfm finetune: give them')
        for name, value in (given or {}).items():
            if name not in self.label_names:
                raise ValueError(f"class_weights: no label {name!r}{nearest(name, label_names)}")
            weight[self.label_names.index(name)] = value
        self.register_buffer("class_weight", weight, persistent=False)

    class_weight: Tensor

    def prepare(self, batch: Batch) -> Batch:
        return mix(self.mix, batch, self.read.modalities) if self.training else batch

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        _, weight = self._targets(batch, self.rows(batch))
        return {"classification": weight.sum().double()}

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> LossTerms:
        target, weight = self._targets(batch, outputs["rows"])
        each = self.each_loss(
            outputs["logits"].float(),
            target,
            self.class_weight,
            label_smoothing=self.label_smoothing,
            focal=self.focal,
        )
        return {"classification": (each[weight > 0].sum(), weight.sum())}

    def _targets(self, batch: Batch, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The share of each class [n,C] in the samples `rows`, and what each sample counts [n], 0
        without a label.
        """
        labels = batch["labels"]
        known = labels != IGNORE_INDEX
        target = torch.zeros(len(labels), len(self.label_names), device=labels.device)
        target[known, labels[known]] = 1.0
        target = mixed(target, batch)
        return target[rows], (target * self.class_weight).sum(1)[rows]

    def predict(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """`label` [n] int64 and `probability` [n,classes]."""
        probability = outputs["logits"].float().softmax(-1)
        return {
            "label": probability.argmax(-1),
            "probability": probability,
            "rows": outputs["rows"],
        }

    def answers(self, predicted: Mapping[str, Tensor], batch: Batch) -> list[Any]:
        """``label``, its ``probability``, and the ``probabilities`` of all labels by name."""
        found = []
        for probability in predicted["probability"].tolist():
            by_name = dict(zip(self.label_names, probability, strict=True))
            best = max(by_name, key=by_name.__getitem__)
            found.append({"label": best, "probability": by_name[best], "probabilities": by_name})
        return found


class MultiLabelHead(ClassificationHead):
    """The same layer, with a yes or no for each label: the mean binary cross-entropy over them."""

    metrics: Mapping[str, Metric] = {"accuracy": all_correct}
    each_loss = staticmethod(_losses.binary_cross_entropy)

    def _targets(self, batch: Batch, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The share of each label [n,C] in the samples `rows`, and 1 for each sample with labels
        [n].
        """
        labels = batch["labels"]
        known = labels[:, 0] != IGNORE_INDEX
        target = labels.float()
        target = mixed(target, batch)
        return target[rows], known[rows].float()

    def predict(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """`probability` [n,classes] of each label."""
        return {"probability": outputs["logits"].float().sigmoid(), "rows": outputs["rows"]}

    def target(self, batch: Batch, rows: Tensor) -> tuple[Tensor, Tensor]:
        labels = batch["labels"][rows]
        return labels, labels[:, 0] != IGNORE_INDEX

    def answers(self, predicted: Mapping[str, Tensor], batch: Batch) -> list[Any]:
        """The ``labels`` that are likelier than not, and the ``probabilities`` of all by name."""
        found = []
        for probability in predicted["probability"].tolist():
            by_name = dict(zip(self.label_names, probability, strict=True))
            labels = [name for name, p in by_name.items() if p >= 0.5]
            found.append({"labels": labels, "probabilities": by_name})
        return found
