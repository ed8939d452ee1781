"""What every head offers: outputs on top of features, their loss, predictions and metrics.

A head is a module below `mmfm.heads` with a dataclass `Config` whose `build(model, label_names)`
returns a `Head`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray
from torch import Tensor, nn

from mmfm.objectives.base import CachedObjective, Objective, ReadFeatures
from mmfm.types import IGNORE_INDEX, Batch, Features, LossTerms, Read

Metric = Callable[[Mapping[str, NDArray[Any]], NDArray[Any]], NDArray[Any]]
"""(columns of `Head.predict`, targets) of n samples ▶ one number for each of them [n]."""


class Known(NamedTuple):
    """A `part` of the task that a pretraining objective may have learnt already, and the settings
    that decide whether it is the same.
    """

    part: nn.Module
    settings: Mapping[str, Any]


class Head(nn.Module):
    """An output for one downstream task. `reads` names its inputs; `label` the field of the samples
    it learns; `metrics` what the evaluation task ``head`` judges it by, the mean over the samples
    of each: "accuracy", or a name that ends with ``error`` or ``loss`` where lower is better.
    `asked_by`: the method of `Predictor` by which a user asks it, where that isn't ``predict``.
    """

    reads: tuple[Read, ...] = ()
    label: str | None = None
    metrics: Mapping[str, Metric] = {}
    asked_by: str = "predict"

    @property
    def specs(self) -> dict[str, dict[str, Any]]:
        """Inputs of its own, beside those of the model's encoders: modality ▶ what the data
        pipeline must know of it.
        """
        return {}

    def prepare(self, batch: Batch) -> Batch:
        """`batch` with what the head adds to it or changes in it before anything else looks."""
        return batch

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """The counts that `loss` will return, known before any encoder runs."""
        raise NotImplementedError

    def forward(self, features: Mapping[Read, Features], batch: Batch) -> dict[str, Tensor]:
        """Outputs with one row a sample."""
        raise NotImplementedError

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> LossTerms:
        """name ▶ (sum, count) over the samples of this micro-batch that have a label."""
        raise NotImplementedError

    def predict(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a user wants of `outputs`: ``rows`` [n], the samples, and columns of n rows."""
        raise NotImplementedError

    def answers(self, predicted: Mapping[str, Tensor], batch: Batch) -> list[Any]:
        """For each of the ``rows`` of `predicted` (see `predict`) what a user is told, as plain
        Python; `batch` is what it was made of.
        """
        columns = {name: values.tolist() for name, values in predicted.items() if name != "rows"}
        rows = range(len(predicted["rows"]))
        return [{name: values[row] for name, values in columns.items()} for row in rows]

    def target(self, batch: Batch, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What is right for the samples `rows` [n]: the targets [n,…], and for which of them [n]
        bool there is one.
        """
        labels = batch["labels"][rows]
        return labels, labels != IGNORE_INDEX

    def objective(self) -> Objective:
        """The head as an objective, for the task."""
        return HeadObjective(self)

    def beside(self) -> dict[str, tuple[Objective, float]]:
        """Objectives that are trained along with the head, with their weights."""
        return {}

    def known_before(self) -> Mapping[str, Known]:
        """Type of a pretraining objective ▶ what is the same here, so that its weights may be taken
        over where the settings are the same.
        """
        return {}


class HeadObjective(Objective):
    """A head's loss as an objective."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head
        self.reads = head.reads

    def prepare(self, batch: Batch) -> Batch:
        return self.head.prepare(batch)

    def counts(self, batch: Batch, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.head.counts(batch)

    def forward(self, features: ReadFeatures, batch: Batch) -> LossTerms:
        return self.head.loss(self.head(features, batch), batch)


class CachedHeadObjective(CachedObjective):
    """A head whose loss is that of a cached objective, e.g. contrastive."""

    def __init__(self, head: Head, inner: CachedObjective) -> None:
        super().__init__()
        self.head = head
        self.reads = head.reads
        self._inner = [inner]  # a part of the head already; in a list, it is not registered twice

    def counts(self, batch: Batch, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.head.counts(batch)

    def rows(self, features: ReadFeatures, batch: Batch) -> dict[str, Tensor]:
        return self._inner[0].rows(features, batch)

    def scalars(self) -> dict[str, Tensor]:
        return self._inner[0].scalars()

    def loss(self, rows: dict[str, Tensor], scalars: dict[str, Tensor]) -> LossTerms:
        return self._inner[0].loss(rows, scalars)
