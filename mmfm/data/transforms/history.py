"""History: the items that somebody chose, in order ▶ rows of the table of items.

A sample's history is in its metadata, ``history: ["item/7", "item/3", …]``; the items are samples
of a data set of their own. The last `held_out` items of every history are never trained on: they
are what an evaluation asks for. Training draws a window where a history is longer than the model's
input; evaluation gets the history whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmfm.data.transforms.base import BadSample, Transform, from_spec
from mmfm.types import IGNORE_INDEX

META_KEY = "history"
ENDINGS = (f"json:{META_KEY}",)


@dataclass(kw_only=True)
class Config:
    """There is nothing to set: the head says what it needs."""

    def build(self, spec: Mapping[str, Any]) -> HistoryTransform:
        """The transform for a head with ``spec = {items, max_length, held_out}``."""
        items = from_spec(spec, "items", list, "history")
        return HistoryTransform(
            rows={item: row for row, item in enumerate(items)},
            max_length=from_spec(spec, "max_length", int, "history"),
            held_out=from_spec(spec, "held_out", int, "history"),
        )


class Window(NamedTuple):
    """Rows of items [L] int64 and, in training, the row that follows each of them."""

    rows: NDArray[np.int64]
    following: NDArray[np.int64] | None = None


@dataclass
class HistoryTransform(Transform):
    """See the module; a content is the list of ids as JSON."""

    rows: dict[str, int]
    max_length: int
    held_out: int
    cheap = True

    def contents(self, files: Mapping[str, bytes], meta: Mapping[str, Any]) -> list[bytes]:
        history = meta.get(META_KEY)
        if not history:
            raise BadSample("history missing")
        if not isinstance(history, list) or not all(isinstance(i, str | int) for i in history):
            raise BadSample("history not a list of ids", detail=repr(history)[:100])
        return [json.dumps([str(item) for item in history]).encode()]

    def content_of_object(self, item: Any) -> bytes:
        """Of a list of ids of items."""
        if isinstance(item, str):
            raise ValueError(f"a history is a list of ids, not {item!r}")
        return self.contents({}, {META_KEY: list(item)})[0]

    def decode_content(self, content: bytes, rng: np.random.Generator, train: bool) -> Window:
        """All rows in evaluation; in training a window before the items that are held out, empty
        where too few are left to learn from.
        """
        items = json.loads(content)
        unknown = [item for item in items if item not in self.rows]
        if unknown:
            some = ", ".join(unknown[:3])
            raise BadSample("unknown item in the history", detail=f"{some} is no item of the head")
        rows = np.array([self.rows[item] for item in items], dtype=np.int64)
        if not train:
            return Window(rows)
        rows = rows[: max(0, len(rows) - self.held_out)]
        extra = len(rows) - (self.max_length + 1)
        if extra > 0:
            start = int(rng.integers(extra + 1))
            rows = rows[start : start + self.max_length + 1]
        return Window(rows[:-1], rows[1:])

    def collate(self, items: Sequence[Window]) -> dict[str, Tensor]:
        """{"history": [B,L] int64 rows, "history_mask": [B,L] bool, True = valid} and in training
        "history_next": [B,L], the row that follows, `IGNORE_INDEX` at padding; padding comes last.
        """
        length = max(1, max(len(item.rows) for item in items))
        shape = (len(items), length)
        history = torch.zeros(shape, dtype=torch.int64)
        mask = torch.zeros(shape, dtype=torch.bool)
        following = torch.full(shape, IGNORE_INDEX, dtype=torch.int64)
        for place, item in enumerate(items):
            n = len(item.rows)
            history[place, :n] = torch.from_numpy(item.rows)
            mask[place, :n] = True
            if item.following is not None:
                following[place, :n] = torch.from_numpy(item.following)
        batch = {"history": history, "history_mask": mask}
        return batch if items[0].following is None else {**batch, "history_next": following}
