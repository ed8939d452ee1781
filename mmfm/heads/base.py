"""What every head offers: outputs on top of features, their loss, predictions and metrics.

A head is a module below `mmfm.heads` with a dataclass `Config` whose `build(model, label_names)` returns a `Head`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from mmfm.types import Batch, Features, LossTerms, Read

Metric = Callable[[Any, Any], float]


class Head(nn.Module):
    """An output for one downstream task. `reads` names its inputs; `label` the field of the samples it learns."""

    reads: tuple[Read, ...] = ()
    label: str | None = None

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """name ▶ function of (predictions, labels) as numpy arrays; higher is better."""
        raise NotImplementedError

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
        """What a user wants of `outputs`."""
        raise NotImplementedError
