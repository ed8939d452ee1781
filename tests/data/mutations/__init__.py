"""Shards that something has gone wrong with, each of a kind: `mutate(kind, seed, path, trap)`.

A shard starts as a dozen good samples with a picture, a sound and texts; a mutation damages or
poisons a few of its members, or the bytes of the tar. `trap` is a path that appears if something in
the shard is ever unpickled or executed.
"""

from __future__ import annotations

import random
from pathlib import Path

from tests.data.mutations import media, names, texts
from tests.data.mutations.archive import BYTES, FOLDERS
from tests.data.mutations.base import good_members, good_samples, tar_bytes

__all__ = ["KINDS", "good_samples", "mutate"]

MEMBERS = media.KINDS | texts.KINDS | names.KINDS
KINDS = [*MEMBERS, *BYTES, *FOLDERS]


def mutate(kind: str, seed: int, path: Path, trap: Path) -> None:
    """Write the shard `path`, mutated in the way of `kind`."""
    draw = random.Random(f"{kind} {seed}")
    if kind in FOLDERS:
        FOLDERS[kind](path)
        return
    members = good_members()
    if kind in MEMBERS:
        MEMBERS[kind](members, draw, trap)
    data = tar_bytes(members)
    path.write_bytes(BYTES[kind](data, draw) if kind in BYTES else data)
