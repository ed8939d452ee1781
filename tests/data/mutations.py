"""Shards that something has gone wrong with, each of a kind: `mutate(kind, seed, path, trap)`.

A shard starts as a dozen good samples with a picture, a sound and texts; a mutation damages or
poisons a few of its members, or the bytes of the tar. `trap` is a path that appears if something in
the shard is ever unpickled or executed.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import random
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.data.make_shards import Files, encoded_sound, files_of, png

SAMPLES = 12
BLOCK = tarfile.BLOCKSIZE

Member = tuple[tarfile.TarInfo, bytes]
Members = list[Member]
OnMembers = Callable[[Members, random.Random, Path], None]
OnBytes = Callable[[bytes, random.Random], bytes]


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


def zero_bytes(members: Members, draw: random.Random, trap: Path) -> None:
    replace(members, draw.randrange(len(members)), b"")


def noise(members: Members, draw: random.Random, trap: Path) -> None:
    replace(members, draw.randrange(len(members)), draw.randbytes(draw.choice((1, 20, 5000))))


def cut(members: Members, draw: random.Random, trap: Path) -> None:
    at = draw.randrange(len(members))
    content = members[at][1]
    replace(members, at, content[: draw.randrange(len(content))])


def flipped_member(members: Members, draw: random.Random, trap: Path) -> None:
    at = draw.randrange(len(members))
    replace(members, at, flipped(members[at][1], draw))


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


def chunk(name: bytes, content: bytes) -> bytes:
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png_of(width: int, height: int, data: bytes, extra: bytes = b"", depth: int = 8) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, 2 if depth == 8 else 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def zeros(size: int) -> bytes:
    """`size` zero bytes, compressed."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    parts = [packer.compress(block[: min(len(block), size - at)]) for at in range(0, size, 1 << 20)]
    return b"".join([*parts, packer.flush()])


def big_pictures() -> OnMembers:
    tiny = zlib.compress(bytes(100))
    jpeg = bytes.fromhex("ffd8ffc00011080000000003012200021101031101ffd9")
    return content_of(
        ".png",
        png_of(100_000, 100_000, tiny),
        png_of(2**31 - 1, 2**31 - 1, tiny),
        png_of(0, 5, tiny),
        jpeg[:7] + b"\xff\xff\xff\xff" + jpeg[11:],
        b"RIFF\x1e\0\0\0WEBPVP8L\x11\0\0\0/\xff\xff\xff\x0f" + bytes(12),
        b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6,
    )


def bombs(members: Members, draw: random.Random, trap: Path) -> None:
    which = draw.randrange(5)
    if which == 0:  # 10^8 black pixels, above the limit
        content = png_of(10_000, 10_000, zeros(10_000 * 1251), depth=1)
    elif which == 1:  # within it
        content = png_of(5_000, 5_000, zeros(5_000 * 15_001))
    elif which == 2:  # a text of 100 MB
        content = png_of(1, 1, zeros(4), chunk(b"zTXt", b"Comment\0\0" + zeros(100 << 20)))
    elif which == 3:
        content = png_of(1, 1, zeros(4), chunk(b"iCCP", b"icc\0\0" + zeros(100 << 20)))
    else:  # more picture data than the header says
        content = png_of(1, 1, zeros(100 << 20))
    replace(members, some(members, draw, ".png"), content)


def big_sounds(members: Members, draw: random.Random, trap: Path) -> None:
    at = some(members, draw, ".flac")
    which = draw.randrange(4)
    if which == 0:  # 2^36 - 1 frames, says the header
        flac = bytearray(members[at][1])
        flac[21] |= 0x0F
        flac[22:26] = b"\xff" * 4
        replace(members, at, bytes(flac))
    elif which == 1:  # an hour of nearly nothing
        wave = np.zeros(3600 * 1000, np.float32)
        replace(members, at, encoded_sound(wave, 1000))
    elif which == 2:
        wav = bytearray(encoded_sound(np.ones(100, np.float32) / 2, 8000, "WAV"))
        wav[40:44] = b"\xff" * 4
        replace(members, at, bytes(wav))
    else:  # 4 GHz
        wav = bytearray(encoded_sound(np.ones(100, np.float32) / 2, 8000, "WAV"))
        wav[24:28] = b"\xff" * 4
        replace(members, at, bytes(wav))


def sounds_that_are_none() -> OnMembers:
    def wav(value: float) -> bytes:
        wave = np.full(2000, value, np.float32)
        wave[:1000] = 0.5
        return encoded_sound(wave, 8000, "WAV", subtype="FLOAT")

    silent = encoded_sound(np.zeros(2000, np.float32), 8000)
    empty = encoded_sound(np.zeros(0, np.float32), 8000, "WAV")
    return content_of(".flac", wav(np.nan), wav(np.inf), wav(-np.inf), silent, empty)


def wrong_endings(members: Members, draw: random.Random, trap: Path) -> None:
    at = draw.randrange(len(members))
    key = members[at][0].name.split(".")[0]
    others = {"png", "jpg", "webp", "flac", "mp3", "wav", "json", "txt", "exe", "PNG", "tar.gz"}
    there = {info.name.split(".")[1] for info, _ in members if info.name.startswith(key)}
    replace(members, at, members[at][1], f"{key}.{draw.choice(sorted(others - there))}")


def not_utf8(members: Members, draw: random.Random, trap: Path) -> None:
    at = some(members, draw, ".json")
    key = members[at][0].name[:-5]
    latin = "Grüße aus Köln".encode("latin-1")
    which = draw.randrange(3)
    if which == 0:
        replace(members, at, b'{"texts": ["' + latin + b'"]}')
    elif which == 1:
        replace(members, at, latin, f"{key}.txt")
    else:
        replace(members, at, '{"texts": ["a"]}'.encode("utf-16"))


def bad_json() -> OnMembers:
    return content_of(
        ".json",
        b'[{"texts": ["a"]}]',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
        b"null",
        b'{"texts": ["a"]',
        b'{"texts": ["a"]} {"texts": ["a"]}',
        b'{"id": NaN, "texts": ["a"]}',
        b'\xef\xbb\xbf{"texts": ["a"]}',
        b'{"texts": ["\\ud800"]}',
        b'{"texts": ["a\\u0000b"]}',
    )


def flipped(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 3, 20)) if data else 0):
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def truncated(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    return data[: draw.choice((at, at // BLOCK * BLOCK, len(data) - draw.randrange(1, 2048)))]


def zeroed_block(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data) // BLOCK) * BLOCK
    return data[:at] + bytes(BLOCK) + data[at + BLOCK :]


def shifted(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + draw.randbytes(draw.choice((1, BLOCK, 1000))) + data[at:]


def swapped(data: bytes, draw: random.Random) -> bytes:
    a, b = sorted(draw.sample(range(len(data) // BLOCK), 2))
    blocks = [data[i : i + BLOCK] for i in range(0, len(data), BLOCK)]
    blocks[a], blocks[b] = blocks[b], blocks[a]
    return b"".join(blocks)


def headers(data: bytes) -> list[int]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [member.offset for member in tar]


def header_field(start: int, *contents: bytes) -> OnBytes:
    """A field of a member's header has another content; the header's checksum is right again."""

    def change(data: bytes, draw: random.Random) -> bytes:
        at = draw.choice(headers(data))
        content = draw.choice(contents)
        header = bytearray(data[at : at + BLOCK])
        header[start : start + len(content)] = content
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return data[:at] + bytes(header) + data[at + BLOCK :]

    return change


def inserted_headers(data: bytes, draw: random.Random) -> bytes:
    """Thousands of headers that all describe the next one, or a malformed one."""
    at = draw.choice(headers(data))
    kind = draw.choice((tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE))
    record = draw.choice(
        (
            b"11 path=abc",
            b"0 path=abc\n",
            b"30 path=\xff\xfe\n",
            b"99999999999 a=b\n",
            b"18 size=-1000000\n",
            b"11 size=ab\n",
            b"26 GNU.sparse.map=a,b,c,d\n",
            b"18 hdrcharset=BIN\n",
            b"\n" * 20,
            b"",
        )
    )
    info = tarfile.TarInfo("pax")
    info.type, info.size = kind, len(record)
    padding = bytes(-len(record) % BLOCK)
    one = info.tobuf(tarfile.USTAR_FORMAT) + record + padding
    return data[:at] + one * draw.choice((1, 5_000)) + data[at:]


def joined(data: bytes, draw: random.Random) -> bytes:
    return data + draw.choice((data, draw.randbytes(3000), b"\n"))


def other_content(data: bytes, draw: random.Random) -> bytes:
    """Something that is no tar at all."""
    page = b"<html><body>404 Not Found</body></html>"
    return draw.choice((b"", page, gzip.compress(data), png(1), bytes(BLOCK), b"PK\3\4" + data))


def a_folder(path: Path) -> None:
    path.mkdir()


def a_dangling_link(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def empty_tar(path: Path) -> None:
    path.write_bytes(tar_bytes([]))


MEMBERS: dict[str, OnMembers] = {
    "zero-byte member": zero_bytes,
    "noise as a member": noise,
    "cut member": cut,
    "bit flips in a member": flipped_member,
    "wrong ending": wrong_endings,
    "huge picture": big_pictures(),
    "decompression bomb": bombs,
    "huge sound": big_sounds,
    "sound that is none": sounds_that_are_none(),
    "text not in UTF-8": not_utf8,
    "JSON that is none": bad_json(),
    "JSON of other types": meta_of(
        {"texts": None},
        {"texts": 5},
        {"texts": [1, None]},
        {"texts": {"en": {"de": ["a"]}}},
        {"texts": []},
        {"texts": ["x" * 100_000]},
        {"id": {"a": 1}},
        {"id": ""},
        {"id": "../../../etc/passwd"},
        {"group": [1, 2]},
        {"labels": ["red"]},
        {"history": "abc"},
    ),
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
BYTES: dict[str, OnBytes] = {
    "truncated tar": truncated,
    "bit flips": flipped,
    "zeroed block": zeroed_block,
    "shifted bytes": shifted,
    "swapped blocks": swapped,
    "size in a header": header_field(
        124,
        b"77777777777\0",
        b"\xff" * 12,
        b"\xff" * 10 + b"\xfe\0",
        b"\x80" + b"\xff" * 11,
        b"-0000000512\0",
        b"00000000001\0",
        b"not a size!\0",
    ),
    "type in a header": header_field(156, b"1", b"S", b"D", b"M", b"L", b"K", b"V", b"x", b"\xff"),
    "name in a header": header_field(0, b"\xff\xfe.png\0", b"\0", b"../x.png\0", b"a" * 100),
    "inserted headers": inserted_headers,
    "joined": joined,
    "no tar": other_content,
}
FOLDERS: dict[str, Callable[[Path], None]] = {
    "folder": a_folder,
    "dangling link": a_dangling_link,
    "pipe as a shard": a_pipe,
    "empty tar": empty_tar,
}
KINDS = [*MEMBERS, *BYTES, *FOLDERS]
