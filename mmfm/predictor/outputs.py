"""What passes over a data set give."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass
class Encoded:
    """Rows by modality (and "fused"), each sample once, in the order of the sample ids."""

    embedding: dict[str, Floats] = field(default_factory=dict)
    pooled: dict[str, Floats] = field(default_factory=dict)
    row_ids: dict[str, list[str]] = field(default_factory=dict)
    groups: dict[str, Ints] = field(default_factory=dict)
    labels: dict[str, Ints] = field(default_factory=dict)


@dataclass
class Predictions:
    """A classification head's `logits` [n,classes] with the samples' ids, groups and labels."""

    logits: Floats
    row_ids: list[str]
    groups: Ints
    labels: Ints


@dataclass
class Judged:
    """The columns of a head's `predict` and what is right [n,…], of the samples for which that is
    known, with their ids and groups.
    """

    predicted: dict[str, NDArray[Any]]
    target: NDArray[Any]
    row_ids: list[str]
    groups: Ints
