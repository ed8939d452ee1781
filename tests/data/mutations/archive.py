"""The bytes of a tar, damaged; what is no tar; what is no file."""

from __future__ import annotations

import gzip
import io
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

from tests.data.make_shards import png
from tests.data.mutations.base import BLOCK, flipped, tar_bytes

OnBytes = Callable[[bytes, random.Random], bytes]


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
