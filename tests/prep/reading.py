"""Samples of a tar, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmfm.data.tar import build_index
from mmfm_prep.dataset.reading import read_one


def read_samples(tar: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, ending ▶ content) of each sample."""
    index = build_index(tar)
    with tar.open("rb") as file:
        for i, key in enumerate(index.keys):
            yield key, read_one(file, tar.name, index, i).files
