"""The shards of a data set at URLs: fetched whole into the cache, checked, then read by offset.

`Manifest` opens one where its path is a URL. A shard of a manifest is kept under its sha256, a
plain tar under the hash of its URL. Its index is taken from beside it (``<url>.idx``) or made from
the fetched tar.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mmfm.data.endings import Endings, endings_text
from mmfm.data.index import IndexHeader, ShardIndex
from mmfm.data.remote.cache import CacheConfig, Partial, ShardCache
from mmfm.data.remote.fetch import FetchError, RemoteConfig, Traffic, fetch
from mmfm.data.remote.urls import hide, index_url, is_http, join
from mmfm.data.tar import build_index

logger = logging.getLogger(__name__)

Matches = Callable[[IndexHeader], bool]
_MANIFEST_BYTES = 1 << 30
_INDEX_BYTES = 1 << 28
_PLAIN = "url-"
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RemoteShard:
    """One tar at `url`; `key`: its name in the cache, without ending."""

    url: str
    key: str
    bytes: int | None = None
    sha256: str | None = None


class RemoteShards:
    """The shards of one source, by their number in its manifest. It can be sent to a worker."""

    def __init__(
        self,
        shards: Sequence[RemoteShard],
        cache: CacheConfig,
        remote: RemoteConfig,
        endings: Endings | None = None,
    ) -> None:
        self.shards = list(shards)
        self.cache = ShardCache(cache.path, cache.max_bytes)
        self.remote = remote
        self.traffic = Traffic()
        self._endings = endings

    @classmethod
    def of_manifest(
        cls,
        folder: str,
        files: Sequence[tuple[str, int, str]],
        cache: CacheConfig,
        remote: RemoteConfig,
        endings: Endings | None = None,
    ) -> RemoteShards:
        """The shards (name, bytes, sha256) below the URL `folder`."""
        for name, _, sha256 in files:
            if not _SHA256.fullmatch(sha256):
                raise ValueError(f"shard {name}: {sha256!r} is no sha256")
        shards = [RemoteShard(join(folder, name), sha, size, sha) for name, size, sha in files]
        return cls(shards, cache, remote, endings)

    @classmethod
    def of_tars(
        cls, urls: Sequence[str], endings: Endings, cache: CacheConfig, remote: RemoteConfig
    ) -> tuple[RemoteShards, list[IndexHeader]]:
        """Plain tars and what their indexes say; a tar without one is fetched to make it."""
        keys = [f"{_PLAIN}{hashlib.sha256(url.encode()).hexdigest()}" for url in urls]
        shards = [RemoteShard(u, k) for u, k in zip(urls, keys, strict=True)]
        opened = cls(shards, cache, remote, endings)
        told = endings_text(endings)

        def header(number: int) -> IndexHeader:
            return opened.index(number, lambda header: header.endings == told).header

        with ThreadPoolExecutor(remote.connections) as pool:
            headers = list(pool.map(header, range(len(shards))))
        for number, found in enumerate(headers):
            shards[number] = replace(shards[number], bytes=found.bytes, sha256=found.sha256)
        opened.shards = shards
        return opened, headers

    def read(self, number: int, offset: int, size: int) -> bytes:
        """`size` bytes of a shard from `offset`, fewer at its end; FetchError where it can't be
        had.
        """
        descriptor = self._open_tar(number)
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def fetch(self, number: int, matches: Matches, stop: threading.Event | None = None) -> None:
        """Bring a shard and its index into the cache, ahead of their use."""
        os.close(self._open_tar(number, stop))
        self.index(number, matches)

    def release(self, number: int) -> None:
        """Say that a shard is not needed soon: it is the first to go when room is needed."""
        self.cache.release(f"{self.shards[number].key}.tar")

    def index(self, number: int, matches: Matches) -> ShardIndex:
        """The index of a shard, whose header `matches`."""
        shard = self.shards[number]
        # The index of a plain tar may have cost a fetch of the whole tar: it stays in the cache.
        name = f"{shard.key}.index" if shard.key.startswith(_PLAIN) else f"{shard.key}.idx"
        index = self._kept_index(name, matches)
        if index is None and not shard.url.startswith("pipe:"):
            index = self._fetch_index(shard, name, matches)
        if index is None:
            index = self._make_index(number, name)
            if not matches(index.header):
                raise ValueError(
                    f"shard {hide(shard.url)} holds {index.header.modality_sets}, its manifest says"
                    " otherwise: make the manifest again"
                )
        return index

    def _kept_index(self, name: str, matches: Matches) -> ShardIndex | None:
        with self._naming_cache():
            descriptor = self.cache.open(name)
        if descriptor is None:
            return None
        try:
            index = ShardIndex.load(f"/proc/self/fd/{descriptor}")
        except ValueError:
            index = None
        finally:
            os.close(descriptor)
        if index is None or not matches(index.header):
            self.cache.remove(name)
            return None
        return index

    def _fetch_index(self, shard: RemoteShard, name: str, matches: Matches) -> ShardIndex | None:
        """The index from beside the tar; None where there is none of this very tar."""
        url = index_url(shard.url)
        # A command's failure does not say whether the file is missing: one try must do.
        remote = self.remote if is_http(url) else replace(self.remote, retries=0)

        def check(partial: Partial) -> None:
            if not matches(ShardIndex.load(partial.path).header):
                raise FetchError(f"{hide(url)} is not the index of this tar")

        def fill(partial: Partial) -> None:
            fetch(
                url,
                partial.file,
                remote,
                most=_INDEX_BYTES,
                check=lambda: check(partial),
                traffic=self.traffic,
            )

        try:
            with self._naming_cache():
                os.close(self.cache.add(name, None, fill))
        except FetchError as error:
            logger.debug("no index: %s", error)
            return None
        return self._kept_index(name, matches)

    def _make_index(self, number: int, name: str) -> ShardIndex:
        shard = self.shards[number]
        logger.info("no index beside %s: it is made", hide(shard.url))
        descriptor = self._open_tar(number)
        try:
            index = _index_of(f"/proc/self/fd/{descriptor}", shard.url, self._endings)
        finally:
            os.close(descriptor)
        content = index.to_bytes()
        with self._naming_cache():
            os.close(self.cache.add(name, len(content), lambda p: _write(p, content)))
        return index

    def _open_tar(self, number: int, stop: threading.Event | None = None) -> int:
        """A descriptor of the fetched tar."""
        shard = self.shards[number]
        name = f"{shard.key}.tar"
        with self._naming_cache():
            descriptor = self.cache.open(name)
            if descriptor is not None:
                if shard.bytes in (None, os.fstat(descriptor).st_size):
                    return descriptor
                os.close(descriptor)
                self.cache.remove(name)  # a plain tar that has changed
        began = time.monotonic()
        try:
            with self._naming_cache():
                return self.cache.add(name, shard.bytes, lambda p: self._fill(p, shard, stop))
        finally:
            if stop is None:
                self.traffic.add(waited_s=time.monotonic() - began)

    def _fill(self, partial: Partial, shard: RemoteShard, stop: threading.Event | None) -> None:
        def check() -> None:
            if shard.sha256 is None:  # nothing else says whether it is whole
                _index_of(partial.path, shard.url, self._endings)

        fetch(
            shard.url,
            partial.file,
            self.remote,
            size=shard.bytes,
            sha256=shard.sha256,
            most=self.cache.max_bytes if shard.bytes is None else None,
            announce=partial.reserve,
            check=check,
            traffic=self.traffic,
            stop=stop,
        )

    @contextmanager
    def _naming_cache(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FetchError(
                f"the cache {self.cache.folder} can't be used: {error.strerror or error}. Name"
                " another folder (data.cache.folder), or lower data.cache.max_gb if the disk is"
                " full"
            ) from None


def read_manifest(url: str, remote: RemoteConfig) -> bytes:
    """The content of the manifest at `url`, which is not kept."""
    file = io.BytesIO()
    fetch(url, file, remote, most=_MANIFEST_BYTES)
    return file.getvalue()


def _index_of(tar: str | Path, url: str, endings: Endings | None) -> ShardIndex:
    try:
        return build_index(tar, endings)
    except ValueError as error:
        raise ValueError(str(error).replace(str(tar), hide(url))) from None


def _write(partial: Partial, content: bytes) -> None:
    partial.file.write(content)
