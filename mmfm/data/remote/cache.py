"""A folder of fetched shards, bounded, shared by all processes of a node.

``cache.add(name, size, fill)`` fetches a file that is not there, once however many processes ask;
``cache.open(name)`` is a descriptor of one that is. A file is written as ``.<name>.partial`` and
renamed when it is whole. Its writer holds a lock on it, so what a killed process leaves is known by
having none, and is taken over or deleted. The shards and indexes that were opened longest ago are
deleted when room is needed; a descriptor stays readable all the same.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mmfm.data.remote.fetch import FetchError

GB = 10**9
EVICTED = (".tar", ".idx")
"""Files with other endings are neither counted nor deleted."""
_POLL_S = 0.05


@dataclass(kw_only=True)
class CacheConfig:
    """Where fetched shards are kept. `folder`: on a disk of the node (unset: ``mmfm/shards`` below
    $XDG_CACHE_HOME); `max_gb`: what it may hold, in 10^9 bytes.
    """

    folder: str | None = None
    max_gb: float = 50.0

    def __post_init__(self) -> None:
        if self.max_gb <= 0:
            raise ValueError(f"max_gb = {self.max_gb}: a positive number is needed")

    @property
    def path(self) -> Path:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return Path(self.folder) if self.folder else home / "mmfm" / "shards"

    @property
    def max_bytes(self) -> int:
        return int(self.max_gb * GB)


class Partial:
    """A file on its way into the cache: `file` to be written, `path` where it is until then."""

    def __init__(self, cache: ShardCache, path: Path, file: IO[bytes]) -> None:
        self._cache, self.path, self.file = cache, path, file

    def reserve(self, size: int) -> None:
        """Make room for `size` bytes in all; FetchError where the cache is smaller."""
        self._cache.reserve(self, size)


class ShardCache:
    """Files by name in `folder`, at most `max_bytes` of those that `EVICTED` names."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    def open(self, name: str) -> int | None:
        """A descriptor to read the file `name`, which counts as used now; None if not there."""
        try:
            descriptor = os.open(self.folder / name, os.O_RDONLY)
        except FileNotFoundError:
            return None
        os.utime(descriptor)
        return descriptor

    def release(self, name: str) -> None:
        """Let the file `name` count as used longest ago."""
        with suppress(FileNotFoundError):
            os.utime(self.folder / name, (0, 0))

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def add(self, name: str, size: int | None, fill: Callable[[Partial], None]) -> int:
        """A descriptor of the file `name`, written by `fill` if no other process does it.

        `size`: bytes to make room for, where known. What `fill` raises leaves nothing behind.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f".{name}.partial"
        while (found := self.open(name)) is None:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # waits for another that fetches it
                if not _is_at(descriptor, path) or (self.folder / name).exists():
                    if _is_at(descriptor, path):  # not that one's, who is through, but our own
                        path.unlink()
                    os.close(descriptor)
                    continue
                self._write(descriptor, path, size, fill)
                with self._locked():  # or one that makes room could count it under neither name
                    os.replace(path, self.folder / name)
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                return descriptor
            except BaseException:
                if _is_at(descriptor, path):
                    path.unlink()
                os.close(descriptor)
                raise
        return found

    def _write(
        self, descriptor: int, path: Path, size: int | None, fill: Callable[[Partial], None]
    ) -> None:
        os.ftruncate(descriptor, 0)  # of one that was killed
        with open(descriptor, "r+b", closefd=False) as file:
            partial = Partial(self, path, file)
            if size is not None:
                partial.reserve(size)
            fill(partial)
        if size is None:
            self._make_room(path, os.fstat(descriptor).st_size)
        os.fsync(descriptor)  # what has its name must be whole after a power cut too

    def reserve(self, partial: Partial, size: int) -> None:
        if size > self.max_bytes:
            raise FetchError(
                f"a shard of {size / GB:.3g} GB is larger than the cache {self.folder} of"
                f" {self.max_bytes / GB:.3g} GB: raise data.cache.max_gb"
            )
        while not self._make_room(partial.path, size, partial.file.fileno()):
            time.sleep(_POLL_S)  # all the rest is being fetched: it becomes evictable

    def _make_room(self, own: Path, size: int, descriptor: int | None = None) -> bool:
        """Evict until `size` bytes fit beside the rest; give them to `descriptor` if they do."""
        with self._locked():
            files, others = self._scan(own)
            over = others + sum(f[1] for f in files) + size - self.max_bytes
            for _, held, path in sorted(files):
                if over <= 0:
                    break
                path.unlink(missing_ok=True)
                over -= held
            if over <= 0 and descriptor is not None:
                os.ftruncate(descriptor, size)
            return over <= 0

    def _scan(self, own: Path) -> tuple[list[tuple[int, int, Path]], int]:
        """(last use, bytes, path) of each file that may go, and the bytes of partial ones."""
        files, partial = [], 0
        for entry in os.scandir(self.folder):
            path = Path(entry.path)
            with suppress(FileNotFoundError):  # renamed meanwhile: it is counted next time
                if path.suffix in EVICTED:
                    stat = path.stat()
                    files.append((stat.st_mtime_ns, stat.st_size, path))
                elif path.suffix == ".partial" and path != own and not _delete_if_dead(path):
                    partial += path.stat().st_size
        return files, partial

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time decides what goes."""
        descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _delete_if_dead(path: Path) -> bool:
    """Delete a partial file whose writer is gone."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(descriptor, path):
            path.unlink()
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
