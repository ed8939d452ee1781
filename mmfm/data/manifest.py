"""The shards of a data set: what `manifest.json` says of them, or what their tars say themselves.

``Manifest.open(path, splits=["train"])`` takes a folder with `manifest.json`, a folder of plain
WebDataset tars, one tar, or a brace or glob pattern. Plain tars are indexed at first opening; the
index is kept beside each tar, or in the user's cache folder where that can't be written. A path may
be a URL (docs/remote-data.md). No shard is opened before it is needed: ``manifest.index(shard)``
and ``manifest.read_sample(shard, i)``.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from mmfm.data.endings import Endings, endings_text, modality_endings
from mmfm.data.index import ShardIndex, find_index, index_path, read_header, restrict
from mmfm.data.lru import Lru
from mmfm.data.plain_tars import describes_file, find_tars, make_index
from mmfm.data.remote.cache import CacheConfig
from mmfm.data.remote.fetch import FetchError, RemoteConfig
from mmfm.data.remote.shards import RemoteShards, read_manifest
from mmfm.data.remote.urls import (
    expand,
    folder_of,
    hide,
    is_url,
    join,
    local_path,
    shard_names,
)
from mmfm.data.shard import Shard
from mmfm.data.tar import build_index, parse_run

__all__ = ["Manifest", "ShardIndex", "build_index", "index_path", "make_index"]

MANIFEST = "manifest.json"
FORMAT = 1
INDEXES_HELD = 256
"""Indexes in memory for each manifest: about 0.3 MB each at 10,000 samples a shard."""
FILES_HELD = 64


class Manifest:
    """The shards of one source, those of some splits or all, with their indexes.

    `label_names`: field of the samples' `labels` ▶ its class names. `splits`: all that there are.
    `endings`: what holds which modality, for an index that has to be made; without them what
    mmfm's own transforms say. `inside`: of a part of a data set, the samples of each shard that are
    in it; `notes`: what there is less of in it than was asked for.
    It can be sent to a worker process; open files and indexes stay behind.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        label_names: Mapping[str, Sequence[str]] | None = None,
        splits: Sequence[str] = (),
        endings: Endings | None = None,
        remote: RemoteShards | None = None,
    ) -> None:
        self.shards = list(shards)
        self.remote = remote
        self.modalities: tuple[str, ...] | None = None
        self.inside: list[NDArray[np.bool_]] | None = None
        self.notes: list[str] = []
        self._whole: Manifest | None = None
        self.label_names = {k: list(v) for k, v in (label_names or {}).items()}
        self.splits = list(splits)
        self.endings = endings
        self._indexes: Lru[ShardIndex] = Lru(INDEXES_HELD)
        self._files: Lru[Any] = Lru(FILES_HELD)
        self._digest = ""

    @classmethod
    def open(
        cls,
        path: str | Path,
        splits: Sequence[str] | None = None,
        modalities: Sequence[str] | None = None,
        cache: CacheConfig | None = None,
        remote: RemoteConfig | None = None,
        transforms: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Open the data set at `path`, restricted to `splits` where given.

        `modalities`: only these exist; what else the samples have is not there for any reader.
        `cache`, `remote`: how shards at a URL are kept and fetched. `transforms`: their settings by
        modality, whose modules say which files hold a modality that is not mmfm's own; a set with
        a manifest says it itself. `ValueError` where there is
        nothing, where a shard is missing or has another size than the manifest says, and for an
        unknown split or a modality that no sample has.
        """
        if is_url(str(path)):
            opened = cls._open_url(
                str(path), splits, cache or CacheConfig(), remote or RemoteConfig(), transforms
            )
        else:
            opened = cls._open(local_path(str(path)), splits, transforms)
        return opened if modalities is None else opened._restricted(str(path), modalities)

    def _restricted(self, path: str, modalities: Sequence[str]) -> Manifest:
        there = {m for s in self.shards for name in s.modality_sets for m in name.split("+")} - {""}
        unknown = sorted(set(modalities) - there)
        if unknown or not modalities:
            raise ValueError(
                f"modalities = {list(modalities)}: the samples of {_shown(path)} have "
                f"{', '.join(sorted(there))}"
            )
        other = self._view()
        other.modalities = tuple(modalities)
        for number, shard in enumerate(self.shards):
            sets: dict[str, int] = {}
            for name, count in shard.modality_sets.items():
                narrowed = restrict(name, modalities)
                sets[narrowed] = sets.get(narrowed, 0) + count
            other.shards[number] = replace(shard, modality_sets=sets)
        return other

    def with_only(self, inside: Sequence[NDArray[np.bool_]], notes: Sequence[str] = ()) -> Manifest:
        """The data set as if it had none but the samples of `inside`, for each shard [samples].

        Nothing counts or reads the others; ``shards[s].samples`` still says how many the tar holds.
        """
        other = self._view()
        other.inside, other.notes = list(inside), list(notes)
        for number, shard in enumerate(self.shards):
            sets = self.index(number).with_only(inside[number]).header.modality_sets
            other.shards[number] = replace(shard, modality_sets=sets)
        return other

    def _view(self) -> Manifest:
        other = Manifest(self.shards, self.label_names, self.splits, self.endings, self.remote)
        other.modalities, other._whole = self.modalities, self.whole
        return other

    @property
    def whole(self) -> Manifest:
        """The data set with all modalities and samples of its shards."""
        return self if self._whole is None else self._whole

    @classmethod
    def _open(
        cls, path: str, splits: Sequence[str] | None, transforms: Mapping[str, Any] | None
    ) -> Manifest:
        where = Path(path)
        file = where if where.name == MANIFEST else where / MANIFEST
        if file.is_file():
            opened = cls.from_json(file.read_bytes(), str(file), str(file.parent), splits)
            for shard in opened.shards:
                shard.check_size(file)
            return opened
        if where.name == MANIFEST:
            raise ValueError(f"there is no manifest {where}")
        if splits and not where.exists():
            raise ValueError(f"there is no data at {path}: make it first (mmfm data make)")
        if splits:
            raise ValueError(
                f"{path} has no {MANIFEST}, so it has no splits ({', '.join(splits)}): leave the"
                " splits out, or name the tars of one split by a pattern"
            )
        return cls._from_tars(find_tars(path), modality_endings(transforms))

    @classmethod
    def _open_url(
        cls,
        url: str,
        splits: Sequence[str] | None,
        cache: CacheConfig,
        remote: RemoteConfig,
        transforms: Mapping[str, Any] | None,
    ) -> Manifest:
        if url.startswith("pipe:") or urlsplit(url).path.endswith(".tar"):
            if splits:
                raise ValueError(f"{hide(url)}: only a {MANIFEST} has splits: leave them out")
            endings, urls = modality_endings(transforms), expand(url)
            names = shard_names(urls)
            shards, headers = RemoteShards.of_tars(urls, endings, cache, remote)
            found = [
                Shard(name, _folder(u, name), h.bytes, h.sha256, h.samples, h.modality_sets)
                for u, name, h in zip(urls, names, headers, strict=True)
            ]
            return cls(found, endings=endings, remote=shards)
        folder = folder_of(url, MANIFEST)
        try:
            text = read_manifest(join(folder, MANIFEST), remote)
        except FetchError as error:
            raise FetchError(
                f"there is no manifest: {error}. Name a folder with a {MANIFEST}, or the tars by a"
                f" pattern: {hide(folder)}/{{000..099}}.tar"
            ) from None
        opened = cls.from_json(text, join(hide(folder), MANIFEST), hide(folder), splits)
        files = [(s.name, s.bytes, s.sha256) for s in opened.shards]
        opened.remote = RemoteShards.of_manifest(folder, files, cache, remote, opened.endings)
        return opened

    @classmethod
    def from_json(
        cls, text: bytes, file: str, folder: str, splits: Sequence[str] | None
    ) -> Manifest:
        """The shards of the manifest `file`, whose content is `text`, below `folder`."""
        try:
            data = json.loads(text)
            if data.get("format") != FORMAT:
                raise ValueError(f"format {data.get('format')!r}, this version reads {FORMAT}")
            names = [str(s) for s in data["splits"]]
            labels = {str(k): [str(n) for n in v] for k, v in data.get("labels", {}).items()}
            shards = [Shard.of(entry, folder) for entry in data["shards"]]
            others = {str(m): [str(e) for e in v] for m, v in data.get("endings", {}).items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"manifest {file} can't be read: {error!r}. Make it again") from None
        for split in splits or ():
            if split not in names:
                near = difflib.get_close_matches(split, names, n=1, cutoff=0.4)
                hint = f"; did you mean {near[0]!r}?" if near else ";"
                raise ValueError(f"{file} has no split {split!r}{hint} It has: {', '.join(names)}")
        if splits is not None:
            shards = [s for s in shards if s.split in splits]
        if not shards:
            raise ValueError(f"{file} lists no shards{f' of {splits}' if splits else ''}")
        endings = {**modality_endings(), **others} if others else None
        return cls(shards, labels, names, endings)

    @classmethod
    def _from_tars(cls, tars: Sequence[Path], endings: Endings) -> Manifest:
        folder = Path(os.path.commonpath([t.parent for t in tars]))
        shards = []
        for tar in tars:
            found = find_index(tar, partial(describes_file, tar, endings_text(endings)))
            header = read_header(found) if found else make_index(tar, endings).header
            name = tar.relative_to(folder).as_posix()
            size, sha256, sets = header.bytes, header.sha256, header.modality_sets
            shards.append(Shard(name, str(folder), size, sha256, header.samples, sets))
        return cls(shards, endings=endings)

    def digest(self) -> str:
        """sha256 over all that describes these shards and labels, wherever they lie, and over which
        samples are inside.
        """
        if not self._digest:
            digest = hashlib.sha256(json.dumps(self.label_names, sort_keys=True).encode())
            for s in self.shards:
                sets = sorted(s.modality_sets.items())
                digest.update(repr((s.name, s.bytes, s.sha256, s.samples, sets, s.split)).encode())
            for part in self.inside or ():
                digest.update(np.packbits(part).tobytes())
            self._digest = digest.hexdigest()
        return self._digest

    def index(self, shard: int) -> ShardIndex:
        """The index of a shard, made first where it is missing or of another tar."""
        return self._indexes.get(shard, lambda: self._load_narrowed(shard))

    def _load_narrowed(self, shard: int) -> ShardIndex:
        if self._whole is None:
            return self._load_index(shard)
        index = self._whole.index(shard)
        if self.modalities is not None:
            index = index.restricted(self.modalities)
        return index if self.inside is None else index.with_only(self.inside[shard])

    def _load_index(self, number: int) -> ShardIndex:
        shard = self.shards[number]
        if self.remote is not None:
            return self.remote.index(number, shard.is_of)
        path = shard.path
        found = find_index(path, shard.is_of)
        if found:
            return ShardIndex.load(found)
        if not path.is_file():
            raise ValueError(f"shard {path} is missing: it was there when the data were opened")
        index = make_index(path, self.endings)
        if index.header.sha256 != shard.sha256:
            raise ValueError(
                f"shard {path} is not the one in the manifest: its sha256 is {index.header.sha256},"
                f" not {shard.sha256}. Copy it again, or make the data set again"
            )
        if index.header.modality_sets != shard.modality_sets:
            raise ValueError(
                f"shard {path} holds {index.header.modality_sets}, its manifest says"
                f" {shard.modality_sets}: make the manifest again"
            )
        return index

    def read_sample(self, shard: int, i: int) -> dict[str, bytes]:
        """The files of sample `i` of a shard, by ending, those of unknown ending too.

        `ValueError` where the tar is not what its index describes.
        """
        index = self.index(shard)
        offset, size = int(index.offsets[i]), int(index.sizes[i])
        place = self.shards[shard].place
        try:
            data = self.read_bytes(shard, offset, size)
        except OSError as error:
            raise ValueError(f"shard {place} can't be read at byte {offset}: {error}") from None
        try:
            if len(data) < size:
                raise ValueError(f"the file ends after {len(data)} of {size} bytes")
            return parse_run(data, index.key(i))
        except ValueError as error:
            raise ValueError(f"shard {place}, sample at byte {offset}: {error}") from None

    def read_bytes(self, shard: int, offset: int, size: int) -> bytes:
        """`size` bytes of a shard's tar, fewer at its end; OSError or ValueError where there are
        none.
        """
        if self.remote is not None:
            return self.remote.read(shard, offset, size)
        path = self.shards[shard].path
        file = self._files.get(shard, lambda: open(path, "rb", buffering=0))  # noqa: SIM115
        # One call that moves no file position, so threads and forked workers may share it.
        return os.pread(file.fileno(), size, offset)

    def is_whole(self, shard: int) -> bool:
        """Whether the shard is there in full, so that only a sample in it can be damaged."""
        if self.remote is not None:  # it was checked when it came
            return True
        try:
            return self.shards[shard].path.stat().st_size == self.shards[shard].bytes
        except OSError:
            return False

    def prefetch(self, shard: int, stop: threading.Event) -> None:
        """Bring a shard at a URL and its index into the cache; StoppedError when `stop` is set."""
        if self.remote is not None:
            self.remote.fetch(shard, self.whole.shards[shard].is_of, stop)

    def __len__(self) -> int:
        """Samples in all shards, of a part of a data set those inside."""
        return sum(sum(s.modality_sets.values()) for s in self.shards)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": Lru(FILES_HELD)}


def _folder(url: str, name: str) -> str:
    return hide(url).removesuffix(name).rstrip("/")


def _shown(path: str) -> str:
    return hide(path) if is_url(path) else path
