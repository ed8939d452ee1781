"""Pictures and sounds that are damaged, endless or none."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path

import numpy as np

from tests.data.make_shards import encoded_sound
from tests.data.mutations.base import Members, OnMembers, content_of, flipped, replace, some


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


def wrong_endings(members: Members, draw: random.Random, trap: Path) -> None:
    at = draw.randrange(len(members))
    key = members[at][0].name.split(".")[0]
    others = {"png", "jpg", "webp", "flac", "mp3", "wav", "json", "txt", "exe", "PNG", "tar.gz"}
    there = {info.name.split(".")[1] for info, _ in members if info.name.startswith(key)}
    replace(members, at, members[at][1], f"{key}.{draw.choice(sorted(others - there))}")


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


KINDS: dict[str, OnMembers] = {
    "zero-byte member": zero_bytes,
    "noise as a member": noise,
    "cut member": cut,
    "bit flips in a member": flipped_member,
    "wrong ending": wrong_endings,
    "huge picture": big_pictures(),
    "decompression bomb": bombs,
    "huge sound": big_sounds,
    "sound that is none": sounds_that_are_none(),
}
