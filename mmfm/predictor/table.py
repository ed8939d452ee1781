"""Rows of a pass over a data set, gathered from all batches and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mmfm import distributed
from mmfm.types import IGNORE_INDEX, Batch

Ints = NDArray[np.int64]


@dataclass
class Gathered:
    """Each sample once, in the order of its `ids`; all else has one row for each of them.

    `labels` are as in the batches, `IGNORE_INDEX` where those have none.
    """

    ids: list[str]
    groups: Ints
    labels: NDArray[Any]
    columns: dict[str, NDArray[Any]]


class Table:
    """Rows of all batches of this rank, then of all ranks."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.groups: list[int] = []
        self.labels: list[NDArray[Any]] = []
        self.columns: dict[str, list[NDArray[Any]]] = {}

    def add(self, batch: Batch, rows: Tensor, columns: Mapping[str, Tensor]) -> None:
        """The samples `rows` [n] of `batch`, and their rows of each column."""
        self.ids += [batch["sample_id"][i] for i in rows.tolist()]
        self.groups += batch["group"][rows].tolist()
        labels = batch.get("labels")
        none = np.full(len(rows), IGNORE_INDEX)
        self.labels.append(none if labels is None else labels[rows].cpu().numpy())
        for name, values in columns.items():
            exact = values.float() if values.is_floating_point() else values
            self.columns.setdefault(name, []).append(exact.cpu().numpy())

    def gather(self) -> Gathered:
        """All ranks' rows; collective."""
        mine = {name: joined(parts) for name, parts in self.columns.items()}
        ranks = distributed.all_gather_object((self.ids, self.groups, self.labels, mine))
        ids = [i for part in ranks for i in part[0]]
        groups = np.array([g for part in ranks for g in part[1]], dtype=np.int64)
        labels = joined([label for part in ranks for label in part[2]])
        _, first = np.unique(np.array(ids, dtype=object), return_index=True)
        filled = [part[3] for part in ranks if part[3]]
        names = filled[0] if filled else {}
        columns = {name: joined([part[name] for part in filled])[first] for name in names}
        return Gathered([ids[i] for i in first], groups[first], labels[first], columns)


def joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The rows of all parts; those of matrices are filled up to the longest, with `IGNORE_INDEX`
    or NaN.
    """
    if not parts:
        return np.zeros(0, dtype=np.int64)
    parts = [part for part in parts if len(part)] or list(parts[:1])
    if parts[0].ndim == 2:
        width = max(part.shape[1] for part in parts)
        fill = np.nan if np.issubdtype(parts[0].dtype, np.floating) else IGNORE_INDEX
        parts = [
            np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=fill)
            if p.shape[1] < width
            else p
            for p in parts
        ]
    return np.concatenate(parts)
