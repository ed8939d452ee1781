"""Names that lead elsewhere, members that are no files, code, and keys that are there twice."""

from __future__ import annotations

import pickle
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

from tests.data.mutations.base import BLOCK, SAMPLES, Members, OnMembers, member, replace, some


def in_place_of(kind: bytes, *targets: str) -> OnMembers:
    """A link, pipe or device where a picture was, or beside it."""

    def change(members: Members, draw: random.Random, trap: Path) -> None:
        at = some(members, draw, ".png")
        name = members[at][0].name
        other = member(name, b"", kind, draw.choice(targets) if targets else "")
        if draw.random() < 0.5:
            members[at] = other
        else:
            members.insert(at, member(f"{name[:-4]}.jpg", *other[1:], kind, other[0].linkname))

    return change


def renamed(*names: str) -> OnMembers:
    """All files of a sample under another key, a pattern with {key}."""

    def change(members: Members, draw: random.Random, trap: Path) -> None:
        key = f"s{draw.randrange(SAMPLES):05d}"
        pattern = draw.choice(names).replace("{folder}", str(trap.parent))
        for i, (info, content) in enumerate(members):
            if info.name.startswith(key):
                name = pattern.replace("{key}", key) + info.name[len(key) :]
                members[i] = member(name, content)

    return change


def other_name(*names: str) -> OnMembers:
    """One member under another name, a pattern with {key} and {ending}."""

    def change(members: Members, draw: random.Random, trap: Path) -> None:
        at = draw.randrange(len(members))
        key, ending = members[at][0].name.split(".")
        name = draw.choice(names).replace("{key}", key).replace("{ending}", ending)
        replace(members, at, members[at][1], name)

    return change


class Trap:
    """Unpickling it makes the file at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


def pickles(members: Members, draw: random.Random, trap: Path) -> None:
    ending = draw.choice(("pkl", "pickle", "pyd", "pt", "pth", "npy", "cls", "png", "json", "txt"))
    key = f"s{draw.randrange(SAMPLES):05d}"
    content = pickle.dumps(Trap(trap))
    names = [info.name for info, _ in members]
    if f"{key}.{ending}" in names:
        replace(members, names.index(f"{key}.{ending}"), content)
    else:
        members.insert(names.index(f"{key}.png") + 1, member(f"{key}.{ending}", content))


def code(members: Members, draw: random.Random, trap: Path) -> None:
    content = f"open({str(trap)!r}, 'w').close()\n".encode()
    for name in draw.sample(("__init__.py", "sitecustomize.py", "s00001.py", "conftest.py"), 2):
        members.insert(draw.choice((0, len(members))), member(name, content))


def twice(members: Members, draw: random.Random, trap: Path) -> None:
    """A sample once more at the end, or a file once more in its sample."""
    at = draw.randrange(len(members) // 2)
    info, content = members[at]
    members.insert(draw.choice((at + 1, len(members))), member(info.name, content))


def mixed(members: Members, draw: random.Random, trap: Path) -> None:
    """The files of samples lie apart."""
    draw.shuffle(members)


def sparse(members: Members, draw: random.Random, trap: Path) -> None:
    """A file with a hole: its size is not that of what is stored."""
    at = some(members, draw, ".png")
    info, _ = member(members[at][0].name, b"")
    size = draw.choice((1 << 12, 1 << 40))
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": info.name,
        "GNU.sparse.realsize": str(size),
    }
    map_of_holes = f"1\n{size - 10}\n10\n".encode().ljust(BLOCK, b"\0") + b"0123456789"
    info.size = len(map_of_holes)
    members[at] = info, map_of_holes


def pax(*headers: dict[str, str]) -> OnMembers:
    def change(members: Members, draw: random.Random, trap: Path) -> None:
        members[draw.randrange(len(members))][0].pax_headers = dict(draw.choice(headers))

    return change


KINDS: dict[str, OnMembers] = {
    "pickle": pickles,
    "code": code,
    "path traversal": renamed("../../{key}", "../{key}", "a/../../{key}", "./{key}", "..\\{key}"),
    "absolute path": renamed("/{key}", "{folder}/escaped-{key}", "//{key}", "C:\\{key}"),
    "odd key": renamed("a" * 120 + "{key}", "ü{key}", "a\nb{key}", "{key} x", "\udcff{key}", "~"),
    "odd name": other_name(
        "{key}",
        ".{ending}",
        "{key}.",
        "{key}..{ending}",
        "{key}.{ending}/",
        "{key}/x.{ending}",
        "{key}.{ending}.{ending}",
        "x\0.{ending}",
        "*.{ending}",
        "{key}.\udcff",
    ),
    "symbolic link": in_place_of(tarfile.SYMTYPE, "/etc/passwd", "s00000.png", "../x.png", "/"),
    "hard link": in_place_of(tarfile.LNKTYPE, "/etc/passwd", "s00000.png", "s00011.png", ""),
    "pipe": in_place_of(tarfile.FIFOTYPE),
    "device": in_place_of(tarfile.CHRTYPE),
    "block device": in_place_of(tarfile.BLKTYPE),
    "sparse file": sparse,
    "pax header": pax(
        {"path": "../../x.png"},
        {"size": "-512"},
        {"size": "99999999999999999999"},
        {"size": "x"},
        {"mtime": "nan"},
        {"GNU.sparse.map": "0,1,2"},
        {"GNU.sparse.size": "1000000000000"},
        {"hdrcharset": "BINARY"},
    ),
    "key twice": twice,
    "samples torn apart": mixed,
}
