"""What a head learns of a sample, out of its JSON: ``labels`` of a batch.

| kind | in the sample | in the batch | where there is none |
| --- | --- | --- | --- |
| class | ``labels: {FIELD: name}`` | [B] int64, the name's number | `IGNORE_INDEX` |
| set | ``labels: {FIELD: [name, …]}`` | [B,classes] int64, 0 or 1 | `IGNORE_INDEX` |
| number | ``numbers: {FIELD: 3.5}`` | [B] float32 | NaN |

The tags of tokens belong to the text: see `mmfm.data.transforms._tagged_text`; items to the
history.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmfm.data.reader import RawSample
from mmfm.types import IGNORE_INDEX, Label

Target = int | list[int] | float

_LARGEST = float(torch.finfo(torch.float32).max)


def read_label(raw: RawSample, label: Label) -> Target | None:
    """The target of one sample; None for a `kind` that is no target of the whole sample.

    Raises:
        ValueError: for a class that is not among the names, a set that is no list, or a number
            that is none; it says in which sample.
    """
    if label.kind in ("tags", "items"):
        return None
    value = _field(raw.meta, "numbers" if label.kind == "number" else "labels", label.field)
    if label.kind == "number":
        return math.nan if value is None else _number(raw, label.field, value)
    if label.kind == "class":
        return IGNORE_INDEX if value is None else _class(raw, label, value)
    if value is None:
        return [IGNORE_INDEX] * len(label.names)
    if not isinstance(value, list):
        raise ValueError(
            f"{raw.place}.json: label {label.field} = {value!r} must be a list of classes, as the "
            "task gives a sample several"
        )
    chosen = {_class(raw, label, name) for name in value}
    return [int(i in chosen) for i in range(len(label.names))]


def collate_labels(targets: Sequence[Target]) -> Tensor:
    """``labels`` of a batch."""
    dtype = torch.float32 if isinstance(targets[0], float) else torch.int64
    return torch.tensor(targets, dtype=dtype)


def _field(meta: Mapping[str, Any], key: str, name: str) -> Any:
    fields = meta.get(key)
    return fields.get(name) if isinstance(fields, dict) else None


def _number(raw: RawSample, name: str, value: Any) -> float:
    number = usable_number(value)
    if number is None:
        told = repr(value)[:100]
        raise ValueError(f"{raw.place}.json: numbers.{name} = {told} is no finite number")
    return number


def usable_number(value: Any) -> float | None:
    """`value` as a number that float32 can hold; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= _LARGEST else None


def _class(raw: RawSample, label: Label, value: Any) -> int:
    if isinstance(value, list):
        raise ValueError(
            f"{raw.place}.json: label {label.field} = {value!r} is a list, but the task gives a "
            "sample one class; head.multi_label=true learns sets of them"
        )
    try:
        return list(label.names).index(str(value))
    except ValueError:
        names = label.names
        known = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        raise ValueError(
            f"{raw.place}.json: label {label.field} = {value!r} is not one of the {len(names)} "
            f"classes of the task ({known})"
        ) from None
