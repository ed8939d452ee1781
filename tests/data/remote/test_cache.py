"""The cache of fetched shards: bounded, whole files only, one fetch at a time, across processes."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from mmfm.data.remote.cache import Partial, ShardCache
from mmfm.data.remote.fetch import FetchError

SPAWN = multiprocessing.get_context("spawn")


def put(cache: ShardCache, name: str, content: bytes, size: int | None = None) -> None:
    os.close(cache.add(name, size, lambda partial: write(partial, content)))


def write(partial: Partial, content: bytes) -> None:
    partial.file.write(content)
    partial.file.truncate()


def names(cache: ShardCache) -> list[str]:
    return sorted(p.name for p in cache.folder.iterdir() if p.name != ".lock")


def content_of(descriptor: int) -> bytes:
    try:
        return os.pread(descriptor, 1 << 20, 0)
    finally:
        os.close(descriptor)


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 100)
    for name in ("of-a-plain-tar.index", "a.tar", "b.idx", "c.tar"):
        put(cache, name, b"x" * 30, 30)
    held = cache.open("a.tar")
    assert held is not None
    put(cache, "d.tar", b"y" * 30, 30)
    assert names(cache) == ["a.tar", "c.tar", "d.tar", "of-a-plain-tar.index"]
    put(cache, "e.tar", b"z" * 60, None)  # of unknown size
    assert names(cache) == ["d.tar", "e.tar", "of-a-plain-tar.index"]
    assert content_of(held) == b"x" * 30  # evicted, and readable all the same
    cache.release("e.tar")
    put(cache, "f.tar", b"f" * 30, 30)
    assert names(cache) == ["d.tar", "f.tar", "of-a-plain-tar.index"]
    put(cache, "g.tar", b"g" * 90, 90)
    assert names(cache) == ["g.tar", "of-a-plain-tar.index"]


def test_a_shard_larger_than_the_cache(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 100)
    with pytest.raises(FetchError, match=r"1.01e-07 GB is larger than the cache .* of 1e-07 GB"):
        put(cache, "a.tar", b"", 101)
    assert names(cache) == []


def test_a_failed_fetch_leaves_nothing(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 100)

    def fail(partial: Partial) -> None:
        partial.file.write(b"half")
        raise FetchError("no")

    with pytest.raises(FetchError):
        cache.add("a.tar", 10, fail)
    assert names(cache) == []


def fetch_slowly(folder: Path, fetches: Path, begun: Event, seconds: float) -> None:
    def fill(partial: Partial) -> None:
        with open(fetches, "a") as log:
            log.write("fetch\n")
        partial.file.write(b"half ")
        partial.file.flush()
        begun.set()
        time.sleep(seconds)
        write(partial, b"whole")

    assert content_of(ShardCache(folder, 100).add("a.tar", 10, fill)) == b"half whole"


def test_two_processes_fetch_once(tmp_path: Path) -> None:
    arguments = (tmp_path / "cache", tmp_path / "fetches", SPAWN.Event(), 0.5)
    processes = [SPAWN.Process(target=fetch_slowly, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert (tmp_path / "fetches").read_text() == "fetch\n"
    assert names(ShardCache(tmp_path / "cache", 100)) == ["a.tar"]


def test_what_a_killed_process_leaves_is_no_shard(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 100)
    for after in ("the same shard", "another shard"):
        begun = SPAWN.Event()
        process = SPAWN.Process(
            target=fetch_slowly, args=(cache.folder, tmp_path / "fetches", begun, 60.0)
        )
        process.start()
        assert begun.wait(60)
        assert names(cache) == [".a.tar.partial"]
        assert cache.open("a.tar") is None
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if after == "the same shard":
            put(cache, "a.tar", b"good", 4)
            assert names(cache) == ["a.tar"]
            cache.remove("a.tar")
        else:
            put(cache, "b.tar", b"x" * 95, 95)
            assert names(cache) == ["b.tar"]


def test_room_that_others_fill_is_waited_for(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 100)
    begun, go_on = threading.Event(), threading.Event()

    def slow(partial: Partial) -> None:
        begun.set()
        assert go_on.wait(30)
        write(partial, b"a" * 60)

    first = threading.Thread(target=lambda: os.close(cache.add("a.tar", 60, slow)))
    second = threading.Thread(target=lambda: put(cache, "b.tar", b"b" * 60, 60))
    first.start()
    assert begun.wait(30)
    second.start()
    second.join(0.2)
    assert names(cache) == [".a.tar.partial", ".b.tar.partial"]
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) == 60
    go_on.set()
    first.join(30)
    second.join(30)
    assert names(cache) == ["b.tar"]


def test_many_threads_share_it(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 500)
    right = []

    def work(seed: int) -> None:
        for i in range(40):
            number = (seed * 7 + i * 3) % 11
            content = bytes([number]) * 90
            descriptor = cache.open(f"{number}.tar")
            if descriptor is None:
                descriptor = cache.add(f"{number}.tar", 90, lambda p, c=content: write(p, c))
            right.append(content_of(descriptor) == content)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert right == [True] * 240
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 500
    assert not [n for n in names(cache) if n.endswith(".partial")]


def test_none_makes_room_while_a_file_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be counted under neither name, and the cache would hold one too many."""
    cache, renamed, replace = ShardCache(tmp_path, 100), [], os.replace

    def slow(source: Path, target: Path) -> None:
        with (tmp_path / ".lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        renamed.append(target.name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", slow)
    put(cache, "a.tar", b"x", 1)
    assert renamed == ["a.tar"]
