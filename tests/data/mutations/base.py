"""A shard as a list of members, and changes to one of them."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

from tests.data.make_shards import Files, files_of

SAMPLES = 12


BLOCK = tarfile.BLOCKSIZE


Member = tuple[tarfile.TarInfo, bytes]


Members = list[Member]


OnMembers = Callable[[Members, random.Random, Path], None]
"""Changes the members; the path is that of the trap."""


def good_samples() -> list[tuple[str, Files]]:
    return [(f"s{number:05d}", files_of(number)) for number in range(SAMPLES)]


def good_members() -> Members:
    return [
        member(f"{key}.{ending}", content)
        for key, files in good_samples()
        for ending, content in files.items()
    ]


def member(name: str, content: bytes, kind: bytes = tarfile.REGTYPE, link: str = "") -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = len(content)
    return info, content


def tar_bytes(members: Members, layout: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=layout) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return file.getvalue()


def some(members: Members, draw: random.Random, ending: str) -> int:
    """The position of any member with this ending."""
    return draw.choice([i for i, (info, _) in enumerate(members) if info.name.endswith(ending)])


def replace(members: Members, at: int, content: bytes, name: str | None = None) -> None:
    members[at] = member(name or members[at][0].name, content)


def content_of(ending: str, *contents: bytes) -> OnMembers:
    """One of `contents` in the place of a member with this ending."""

    def change(members: Members, draw: random.Random, trap: Path) -> None:
        replace(members, some(members, draw, ending), draw.choice(contents))

    return change


def meta_of(*changes: object) -> OnMembers:
    """One of `changes` made to a sample's JSON."""

    def change(members: Members, draw: random.Random, trap: Path) -> None:
        at = some(members, draw, ".json")
        replace(members, at, json.dumps(json.loads(members[at][1]) | draw.choice(changes)).encode())

    return change


def flipped(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 3, 20)) if data else 0):
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)
