"""Reading shards: the index of a tar from its headers, and one sample from its bytes.

A sample is a run of consecutive tar members with the same key: the path up to the first dot of the
file name. What follows that dot, in lower case, is the ending, and the endings decide the sample's
modality set (`mmfm.data.endings`). Nothing is unpickled, and nothing is decoded but a sample's
JSON, to see what it holds.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from mmfm.data.endings import Endings, Holders, endings_text, modality_endings
from mmfm.data.index import IndexHeader, ShardIndex

logger = logging.getLogger(__name__)

BLOCK = tarfile.BLOCKSIZE
_MAX_JSON = 16 << 20
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)


def split_name(name: str) -> tuple[str, str] | None:
    """(key, ending) of a tar member; None where its file name has no key before a first dot."""
    match = _NAME.fullmatch(name)
    return (match[1], match[2].lower()) if match else None


def build_index(tar: str | Path, endings: Endings | None = None) -> ShardIndex:
    """Index an uncompressed tar by reading its headers, and hash it.

    `endings`: modality ▶ file endings, by default those of `mmfm.data.transforms`. `ValueError`
    names file and byte where the tar is truncated or damaged, and the keys that occur twice. Links,
    devices and sparse files are never followed: they belong to no sample.
    """
    path = Path(tar)
    if not path.is_file():  # a pipe would be waited for
        raise ValueError(f"shard {path} is missing, or is no file")
    endings = modality_endings() if endings is None else endings
    builder = _Builder(path, Holders.of(endings))
    stat = path.stat()
    try:
        with open(path, "rb") as file, _open(file) as archive:
            for member in _members(archive):
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                if end > stat.st_size:
                    raise ValueError(
                        f"shard {path} is truncated at byte {stat.st_size}: {member.name!r} needs"
                        f" the bytes {member.offset_data} to {end}. Copy or make the shard again"
                    )
                builder.add(archive, member, end)
            _check_end(path, file, archive.offset)
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except tarfile.TarError as error:
        raise ValueError(
            f"shard {path} is not an uncompressed tar, or is damaged at byte {builder.end}"
            f" ({error}). Shards are read by offset, so unpack a .tar.gz first"
        ) from None
    except OSError as error:
        raise ValueError(f"shard {path} can't be read: {error.strerror}") from None
    return builder.finish(stat, sha256, endings_text(endings))


def _open(file: IO[bytes]) -> tarfile.TarFile:
    """An archive to read; TarError where its first header is malformed."""
    try:
        return tarfile.open(fileobj=file, mode="r:")
    except (tarfile.TarError, OSError):
        raise
    except Exception as error:  # malformed extended headers make tarfile raise almost anything
        raise tarfile.ReadError(f"{type(error).__name__}: {error}") from None


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of an archive, one at a time; TarError at the first malformed one."""
    try:
        for member in archive:
            if member.size < 0:  # tarfile would go back to where it was
                raise tarfile.ReadError(f"{member.name!r} has {member.size} bytes")
            yield member
            vars(archive)["members"] = []  # else every header stays in memory
    except (tarfile.TarError, OSError):
        raise
    except Exception as error:
        raise tarfile.ReadError(f"{type(error).__name__}: {error}") from None


def _is_file(member: tarfile.TarInfo) -> bool:
    """Whether the bytes behind its header are its content: not of links, devices, sparse files."""
    return member.isfile() and not member.issparse()


def _check_end(path: Path, file: io.BufferedReader, offset: int) -> None:
    """A whole archive ends with zero blocks; tarfile stops in silence at a bad header too."""
    file.seek(offset)
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        raise ValueError(
            f"shard {path} is truncated at byte {offset + len(block)}: there is no end-of-archive"
            f" block at byte {offset}. Copy or make the shard again"
        )
    while block:
        if block.strip(b"\0"):
            raise ValueError(
                f"shard {path}: neither a tar header nor the archive's end at byte {offset}. It is"
                " damaged, or several archives were joined: copy it again, or pack its files into"
                " one tar"
            )
        offset += len(block)
        block = file.read(1 << 20)


class _Builder:
    """Collects the runs of members with equal keys."""

    def __init__(self, path: Path, holders: Holders) -> None:
        self.path, self.holders = path, holders
        self.end = self.ignored = 0
        self.keys: list[str] = []
        self.offsets: list[int] = []
        self.ends: list[int] = []
        self.modalities: list[set[str]] = []
        self.unreadable: list[int] = []  # samples whose JSON is none
        self._endings: set[str] = set()
        self._seen: set[str] = set()
        self._twice: list[str] = []

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo, end: int) -> None:
        self.end = end
        name = split_name(member.name) if _is_file(member) else None
        if name is None:
            self.ignored += not member.isdir()
            return
        key, ending = name
        if not self.keys or key != self.keys[-1]:
            if key in self._seen:
                self._twice.append(key)
            self._seen.add(key)
            self.keys.append(key)
            self.offsets.append(member.offset)
            self.ends.append(end)
            self.modalities.append(set())
            self._endings = set()
        elif ending in self._endings:
            self._twice.append(key)
        self.ends[-1] = end
        self._endings.add(ending)
        if ending in self.holders.files:
            self.modalities[-1].add(self.holders.files[ending])
        elif ending == "json" and member.size <= _MAX_JSON:
            content = archive.extractfile(member)
            data = _parsed(content.read() if content else b"")
            if data is None:
                self.unreadable.append(len(self.keys) - 1)
            else:
                self.modalities[-1] |= self.holders.in_json(data)

    def finish(self, stat: os.stat_result, sha256: str, endings: str) -> ShardIndex:
        if self._twice:
            keys = list(dict.fromkeys(self._twice))
            names = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
            raise ValueError(
                f"shard {self.path} has keys more than once ({names}). The files of a sample must"
                " follow each other and no two samples may share a key: make the shard again"
            )
        if self.ignored:
            logger.warning("shard %s: %d files belong to no sample", self.path, self.ignored)
        self._place_unreadable()
        sets = ["+".join(sorted(m)) for m in self.modalities]
        names_of = sorted(set(sets))
        header = IndexHeader(
            bytes=stat.st_size,
            sha256=sha256,
            mtime_ns=stat.st_mtime_ns,
            samples=len(sets),
            modality_sets={name: sets.count(name) for name in names_of},
            endings=endings,
            ignored=self.ignored,
        )
        encoded = [k.encode("utf-8", "surrogateescape") for k in self.keys]
        offsets = np.array(self.offsets, np.int64)
        codes = np.array([names_of.index(s) for s in sets], np.uint16)
        key_ends = np.cumsum([len(k) for k in encoded], dtype=np.int64)
        sizes = np.array(self.ends, np.int64) - offsets
        return ShardIndex(header, offsets, sizes, codes, key_ends, b"".join(encoded))

    def _place_unreadable(self) -> None:
        """Count a sample whose JSON is none among the most frequent kind that has its files, where
        others can take its place; in a kind of its own none could.
        """
        if not self.unreadable:
            return
        bad = set(self.unreadable)
        kinds = Counter(frozenset(m) for i, m in enumerate(self.modalities) if i not in bad)
        in_json = set(self.holders.fields.values())
        for i in self.unreadable:
            has = self.modalities[i]
            likely = [
                (n, sorted(kind)) for kind, n in kinds.items() if has <= kind <= has | in_json
            ]
            self.modalities[i] = set(max(likely)[1]) if likely else has


def _parsed(content: bytes) -> dict[str, Any] | None:
    """A sample's JSON; None where it is no object, a bad sample."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def parse_run(data: bytes, key: str) -> dict[str, bytes]:
    """The files of one sample, by ending, from the bytes of its run of tar members.

    `ValueError` where the run is no tar or holds other keys than `key`: the index is not this
    tar's.
    """
    plain = _plain_run(data, key)
    if plain is not None:
        return plain
    files: dict[str, bytes] = {}
    try:
        with _open(io.BytesIO(data)) as archive:
            for member in _members(archive):
                name = split_name(member.name) if _is_file(member) else None
                if name is None:
                    continue
                content = data[member.offset_data : member.offset_data + member.size]
                if name[0] != key or len(content) != member.size:
                    raise ValueError(f"expected the files of {key!r}, found {member.name!r}")
                files[name[1]] = content
    except tarfile.TarError as error:
        raise ValueError(f"expected the files of {key!r}: {error}") from None
    if not files:
        raise ValueError(f"expected the files of {key!r}, found none")
    return files


def _plain_run(data: bytes, key: str) -> dict[str, bytes] | None:
    """`parse_run` for the usual headers, without tarfile's overhead; None where it must decide.

    Usual: regular members with short names and octal sizes, whose pax headers, if any, say nothing
    of name or size (webdataset writes one for each member, with its time).
    """
    files: dict[str, bytes] = {}
    start = key.encode("utf-8", "surrogateescape") + b"."
    at, end = 0, len(data)
    while at < end:
        header = data[at : at + BLOCK]
        digits, kind = header[124:135], header[156:157]
        try:
            size, checksum = int(digits, 8), int(header[148:156].strip(b"\0 "), 8)
        except ValueError:
            return None
        # The checksum counts its own field as eight spaces.
        right = sum(header) - sum(header[148:156]) + 256 == checksum
        if not right or size < 0 or at + BLOCK + size > end:
            return None
        content = data[at + BLOCK : at + BLOCK + size]
        at += BLOCK + -(-size // BLOCK) * BLOCK
        if kind == b"x" and b" path=" not in content and b" size=" not in content:
            continue
        name = header[:100].rstrip(b"\0")
        ending = name[len(start) :]
        usual = kind in (b"0", b"\0") and name.startswith(start)
        usual = usual and not header[345:500].strip(b"\0")  # no prefix of the name
        if not usual or not ending or b"/" in ending or len(name) == 100:
            return None
        files[ending.decode("utf-8", "surrogateescape").lower()] = content
    return files or None
