"""Outputs of a frozen encoder kept on disk by content, so that training reads them and doesn't run
the encoder.

A content is what is encoded: the bytes of a picture or a sound, or one text. `FeatureCache(folder,
key)` holds, for the encoder with the fingerprint `key`, each content's tokens [L, D], their mask
[L] and its pooled output [D]:

    cache = FeatureCache(folder, key)
    with cache.writer() as writer:  # or `mmfm.data.cache_build.build_cache` for whole data sets
        writer.add(content, output)
    cache.get(content).pooled

Files: one folder for each key, in it one folder for each part, ``keys.npy lengths.npy tokens.bin
mask.bin pooled.bin part.json``; a part appears under its name only when it is whole, and never
changes. An empty file ``filled/NAME-of-W-R`` says that rank R of W has added its share of what NAME
stands for (a shard).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

_FORMAT = 1
_PART_BYTES = 1 << 28


class CachedOutput(NamedTuple):
    """Outputs of a frozen encoder for one content."""

    tokens: NDArray[np.floating[Any]]
    """[L, D]"""
    mask: NDArray[np.bool_]
    """[L], True = valid"""
    pooled: NDArray[np.floating[Any]]
    """[D]"""


@dataclass(frozen=True)
class _Part:
    starts: NDArray[np.int64]
    tokens: NDArray[np.floating[Any]]
    mask: NDArray[np.uint8]
    pooled: NDArray[np.floating[Any]]


class FeatureCache:
    """Read access to the outputs for encoder `key` in `folder`; `writer` adds to them.

    Only names are pickled: a worker process maps the files itself. Call `refresh` to see parts
    written since.
    """

    def __init__(
        self, folder: str | Path, key: str, dtype: Literal["float16", "float32"] = "float16"
    ) -> None:
        self.key = key
        self.dtype = dtype
        digest = blake2b(f"{key}\n{dtype}".encode(), digest_size=16)
        self.folder = Path(folder) / digest.hexdigest()
        self._parts: list[_Part] | None = None
        self._keys: NDArray[np.uint64]
        self._where: NDArray[np.int64]

    def __getstate__(self) -> dict[str, Any]:
        return {"key": self.key, "dtype": self.dtype, "folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._parts = None

    def __contains__(self, content: bytes) -> bool:
        return self._find(content) is not None

    def __len__(self) -> int:
        """The number of entries, counting a content twice that two ranks have written."""
        self._load()
        return len(self._keys)

    def get(self, content: bytes) -> CachedOutput:
        """The outputs for `content`. ValueError if the cache lacks them."""
        found = self._find(content)
        if found is None:
            raise ValueError(
                f"the feature cache {self.folder} ({len(self)} entries) has no outputs for a "
                "sample: data, texts or encoder changed since it was built; build it again"
            )
        assert self._parts is not None
        number, item = found
        part = self._parts[number]
        start, stop = part.starts[item : item + 2]
        mask = part.mask[start:stop].astype(np.bool_)
        return CachedOutput(np.array(part.tokens[start:stop]), mask, np.array(part.pooled[item]))

    def writer(self, rank: int = 0) -> CacheWriter:
        """Adds outputs; each rank has its own. Use it in a ``with`` block."""
        return CacheWriter(self, rank)

    def filled(self) -> set[str]:
        """The names for which the ranks of some world have all called `mark_filled`."""
        marks = self.folder / "filled"
        files = marks.iterdir() if marks.is_dir() else []
        ranks = Counter(tuple(file.name.rsplit("-", 1)[0].split("-of-")) for file in files)
        return {name for (name, world_size), count in ranks.items() if count == int(world_size)}

    def mark_filled(self, name: str, rank: int, world_size: int) -> None:
        """Remember that this rank has added its share of what `name` stands for."""
        (self.folder / "filled").mkdir(parents=True, exist_ok=True)
        (self.folder / "filled" / f"{name}-of-{world_size}-{rank}").touch()

    def refresh(self) -> None:
        """Look at the folder again at the next access."""
        self._parts = None

    def _find(self, content: bytes) -> tuple[int, int] | None:
        self._load()
        high, low = _split(content_hash(content))
        at = int(np.searchsorted(self._keys[:, 0], high))
        while at < len(self._keys) and self._keys[at, 0] == high:
            if self._keys[at, 1] == low:
                return int(self._where[at, 0]), int(self._where[at, 1])
            at += 1
        return None

    def _load(self) -> None:
        if self._parts is not None:
            return
        folders = sorted(self.folder.glob("part-*")) if self.folder.is_dir() else []
        parts, keys, where = [], [np.empty((0, 2), np.uint64)], [np.empty((0, 2), np.int64)]
        for number, folder in enumerate(folders):
            part, part_keys = _open_part(folder, self.dtype)
            parts.append(part)
            keys.append(part_keys)
            items = np.arange(len(part_keys), dtype=np.int64)
            where.append(np.stack([np.full_like(items, number), items], axis=1))
        all_keys, all_where = np.concatenate(keys), np.concatenate(where)
        # A content in several parts: the first part's outputs are used, on every rank.
        order = np.lexsort((all_where[:, 0], all_keys[:, 1], all_keys[:, 0]))
        self._keys, self._where = all_keys[order], all_where[order]
        self._parts = parts


class CacheWriter:
    """Writes parts of a cache: hidden while they grow, renamed when they are whole."""

    def __init__(self, cache: FeatureCache, rank: int, part_bytes: int = _PART_BYTES) -> None:
        self.cache = cache
        self.rank = rank
        self.part_bytes = part_bytes
        # Another process may fill the same cache at the same time.
        self._name = f"part-{rank:05d}-{time.time_ns():020d}-{os.getpid()}"
        self._finished = 0
        self._hidden = cache.folder / f".{self._name}"
        self._keys: list[tuple[int, int]] = []
        self._lengths: list[int] = []
        self._files: dict[str, BinaryIO] = {}
        self._widths: tuple[int, int] | None = None

    def __enter__(self) -> CacheWriter:
        self.cache.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.finish_part()
        else:
            self._close()
            shutil.rmtree(self._hidden, ignore_errors=True)

    def add(self, content: bytes, output: CachedOutput) -> None:
        """Append one content's outputs. ValueError if they don't fit the number format."""
        dtype = self.cache.dtype
        tokens, pooled = output.tokens.astype(dtype), output.pooled.astype(dtype)
        if not (np.isfinite(tokens[output.mask]).all() and np.isfinite(pooled).all()):
            raise ValueError(
                f"outputs of encoder {self.cache.key!r} are not finite in {dtype}; use a float32 "
                "cache, or mend the encoder"
            )
        if not self._files:
            self._hidden.mkdir()
            for name in ("tokens", "mask", "pooled"):
                self._files[name] = open(self._hidden / f"{name}.bin", "wb")  # noqa: SIM115
            self._widths = (tokens.shape[1], len(pooled))
        assert self._widths == (tokens.shape[1], len(pooled)), "an encoder has one width"
        self._files["tokens"].write(tokens.tobytes())
        self._files["mask"].write(output.mask.astype(np.uint8).tobytes())
        self._files["pooled"].write(pooled.tobytes())
        self._keys.append(_split(content_hash(content)))
        self._lengths.append(len(tokens))
        if self._files["tokens"].tell() >= self.part_bytes:
            self.finish_part()

    def finish_part(self) -> None:
        """Make what was added so far a part that readers see."""
        if not self._keys:
            return
        self._close()
        np.save(self._hidden / "keys.npy", np.array(self._keys, dtype=np.uint64))
        np.save(self._hidden / "lengths.npy", np.array(self._lengths, dtype=np.int64))
        assert self._widths is not None
        about = {
            "format": _FORMAT,
            "key": self.cache.key,
            "dtype": self.cache.dtype,
            "items": len(self._keys),
            "width": self._widths[0],
            "pooled_width": self._widths[1],
        }
        text = json.dumps(about, ensure_ascii=True, indent=1)
        (self._hidden / "part.json").write_text(text + "\n")
        os.rename(self._hidden, self.cache.folder / f"{self._name}-{self._finished:06d}")
        self._finished += 1
        self._keys, self._lengths = [], []

    def _close(self) -> None:
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        self._files = {}


def _open_part(folder: Path, dtype: str) -> tuple[_Part, NDArray[np.uint64]]:
    about = json.loads((folder / "part.json").read_text(encoding="utf-8"))
    keys = np.load(folder / "keys.npy", allow_pickle=False)
    lengths = np.load(folder / "lengths.npy", allow_pickle=False)
    total = int(lengths.sum())

    def mapped(name: str, kind: str, shape: tuple[int, ...]) -> Any:
        path = folder / f"{name}.bin"
        needed = int(np.prod(shape)) * np.dtype(kind).itemsize
        if path.stat().st_size != needed:
            size = path.stat().st_size
            raise ValueError(f"{path} has {size} bytes, not {needed}; delete it and build again")
        # An empty file can't be mapped.
        return np.memmap(path, kind, "r", shape=shape) if needed else np.zeros(shape, kind)

    part = _Part(
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        tokens=mapped("tokens", dtype, (total, about["width"])),
        mask=mapped("mask", "uint8", (total,)),
        pooled=mapped("pooled", dtype, (len(keys), about["pooled_width"])),
    )
    return part, keys


def content_hash(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()


def _split(digest: bytes) -> tuple[int, int]:
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
