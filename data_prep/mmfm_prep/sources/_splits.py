"""Splits that the names of files and folders tell."""

from __future__ import annotations

import re

_SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "dev": "dev", "devel": "dev", "testa": "dev",
    "test": "test", "testing": "test", "testb": "test",
}  # fmt: skip


def split_of(name: str) -> str | None:
    """The split that the words of a name tell: train of ``captions_train2017.json``; None where
    none does, or two do.
    """
    words = re.findall(r"[a-z]+", name.lower())
    found = {_SPLITS[word] for word in words if word in _SPLITS}
    return found.pop() if len(found) == 1 else None


def usual_split(value: str) -> str:
    """A split as people write it, under its usual name: train for ``Train`` and ``TRAINING``; any
    other as it is.
    """
    return _SPLITS.get(value.lower(), value)
