"""Data sets at URLs: the same samples, order and batches as from a folder, whatever the server."""

from __future__ import annotations

import errno
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmfm.config import ConfigError, from_dict
from mmfm.data import facts, subset
from mmfm.data.index import index_path
from mmfm.data.manifest import Manifest
from mmfm.data.order import Order
from mmfm.data.pipeline import DataConfig, Pipeline
from mmfm.data.reader import SampleReader
from mmfm.data.remote import fetch as fetching
from mmfm.data.remote.cache import CacheConfig
from mmfm.data.remote.fetch import FetchError, RemoteConfig
from mmfm.data.sequential import SequentialData
from mmfm.types import Batch
from tests.data.remote.shard_server import ShardServer, serve
from tests.data.test_pipeline import assert_same, steps_of

Specs = dict[str, dict[str, Any]]
REMOTE = RemoteConfig(retries=2, timeout_s=1.5)
SHARDS = [f"{number:03d}.tar" for number in range(6)]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    monkeypatch.setattr(fetching, "FIRST_PAUSE_S", 0.001)


@pytest.fixture
def folder(tmp_path: Path, good_set: Path) -> Path:
    """A copy of the tri-modal set that a test may change."""
    return Path(shutil.copytree(good_set, tmp_path / "served" / "data"))


@pytest.fixture
def server(folder: Path) -> Iterator[ShardServer]:
    with serve(folder.parent) as found:
        yield found


def plain(folder: Path, indexed: bool = True) -> None:
    (folder / "manifest.json").unlink()
    if not indexed:
        for name in SHARDS:
            index_path(folder / name).unlink()


def cached(tmp_path: Path) -> list[str]:
    folder = tmp_path / "user-cache/mmfm/shards"
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def make_pipeline(path: str, specs: Specs, world_size: int = 1, **more: Any) -> Pipeline:
    data = {
        "sources": {"set": {"path": path}},
        "global_batch_size": 24,
        "streams": 4,
        "workers": 0,
        "block_shards": 2,
        "remote": {"retries": 2, "timeout_s": 1.5},
    }
    return Pipeline(
        from_dict(DataConfig, data | more), specs, seed=1, rank=0, world_size=world_size
    )


def read_all(manifest: Manifest) -> list[tuple[str, str, dict[str, bytes]]]:
    reader = SampleReader([("set", manifest)])
    samples = [
        reader.read(0, number, i)
        for number, shard in enumerate(manifest.shards)
        for i in range(shard.samples)
    ]
    return [(s.sample_id, s.place, s.files) for s in samples]


def test_a_part_of_a_set_at_a_url(folder: Path, server: ShardServer, monkeypatch) -> None:
    local, there = Manifest.open(folder), Manifest.open(f"{server.url}/data", remote=REMOTE)
    parts = []
    for manifest in (local, there):
        monkeypatch.setattr(facts, "_held", facts.Lru(1))
        monkeypatch.setattr(subset, "_drawn", subset.Lru(1))
        parts.append(subset.subset_of(manifest, subset.SubsetConfig(folds=3, label="colour")))
    assert parts[0].digest() == parts[1].digest() != local.digest()


@pytest.mark.parametrize("ending", ["", "/", "/manifest.json", "/manifest.json?token=x"])
def test_a_folder_at_a_url(folder: Path, server: ShardServer, tmp_path: Path, ending: str) -> None:
    local, there = Manifest.open(folder), Manifest.open(f"{server.url}/data{ending}", remote=REMOTE)
    assert there.digest() == local.digest()
    assert cached(tmp_path) == []  # nothing but the manifest was needed
    assert read_all(there) == read_all(local)
    shas = sorted(s.sha256 for s in local.shards)
    assert cached(tmp_path) == sorted(
        [".lock", *(f"{s}{e}" for s in shas for e in (".idx", ".tar"))]
    )
    assert set(server.requests.values()) == {1}
    fingerprints = [
        Order([("set", m, None)], seed=1, streams=4, global_batch_size=24).fingerprint
        for m in (local, there)
    ]
    assert fingerprints[0] == fingerprints[1]
    assert Manifest.open(f"{server.url}/data", ["train"], ["text"]).modalities == ("text",)


@pytest.mark.parametrize("indexed", [True, False])
def test_plain_tars_at_urls(
    folder: Path, server: ShardServer, tmp_path: Path, indexed: bool
) -> None:
    plain(folder, indexed)
    local = Manifest.open(folder)
    if not indexed:
        for name in SHARDS:
            index_path(folder / name).unlink()
    pattern = f"{server.url}/data/{{000..005}}.tar"
    there = Manifest.open(pattern, remote=REMOTE)
    assert there.digest() == local.digest()
    assert any(n.endswith(".tar") for n in cached(tmp_path)) is not indexed
    assert read_all(there) == read_all(local)
    server.requests.clear()
    assert Manifest.open(pattern, remote=REMOTE).digest() == local.digest()
    assert not server.requests  # what was indexed once is known
    with pytest.raises(ValueError, match=r"only a manifest\.json has splits"):
        Manifest.open(pattern, ["train"])


def test_a_tar_of_untold_length_stays_within_the_cache(folder: Path, server: ShardServer) -> None:
    plain(folder, indexed=False)
    server.faults["/data/000.tar"] = ["untold"]
    size = (folder / "000.tar").stat().st_size
    small = CacheConfig(max_gb=size / 4 / 10**9)
    with pytest.raises(FetchError, match=r"it has more than the .* bytes that it may have"):
        Manifest.open(f"{server.url}/data/000.tar", cache=small, remote=REMOTE)


def test_a_stale_index_beside_a_tar_is_not_believed(
    folder: Path, server: ShardServer, tmp_path: Path
) -> None:
    local = read_all(Manifest.open(folder))
    shutil.copy(index_path(folder / "001.tar"), index_path(folder / "000.tar"))
    index_path(folder / "002.tar").write_bytes(b"{}")
    there = Manifest.open(f"{server.url}/data", remote=REMOTE)
    assert read_all(there) == local


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2])
def test_batches_are_those_of_a_folder(
    folder: Path, server: ShardServer, specs: Specs, workers: int, world_size: int
) -> None:
    for number, fault in enumerate(["truncate", "500", "stall", "wrong"]):
        server.faults[f"/data/{SHARDS[number]}"] = [fault]
    there = make_pipeline(f"{server.url}/data", specs, world_size, workers=workers)
    local = make_pipeline(str(folder), specs, world_size)
    assert there.order.fingerprint == local.order.fingerprint
    assert_same(steps_of(there, 8), steps_of(local, 8))
    assert not [t.name for t in threading.enumerate() if t.name.startswith("prefetch")]
    size = sum(shard.bytes for shard in there.order.sources[0][1].shards)
    assert there.traffic.bytes > size
    assert there.traffic.retries == 4
    assert local.traffic.bytes == local.traffic.retries == 0
    assert max(server.requests.values()) == 2  # the one that failed, and one for all who wait


def test_evaluation_batches_are_those_of_a_folder(
    folder: Path, server: ShardServer, specs: Specs
) -> None:
    def batches(path: str) -> list[Batch]:
        manifest = Manifest.open(path, remote=REMOTE)
        return list(SequentialData([("set", manifest)], specs, batch_size=7))

    assert_same(batches(f"{server.url}/data"), batches(str(folder)))


def test_a_cache_smaller_than_the_data(folder: Path, server: ShardServer, tmp_path: Path) -> None:
    shards = Manifest.open(folder).shards
    limit = 2.5 * max(s.bytes for s in shards)
    there = Manifest.open(
        f"{server.url}/data", cache=CacheConfig(max_gb=limit / 1e9), remote=REMOTE
    )
    assert read_all(there) == read_all(Manifest.open(folder))
    kept = tmp_path / "user-cache/mmfm/shards"
    assert sum(p.stat().st_size for p in kept.iterdir()) <= limit


def only(path: str, modality: str) -> dict[str, Any]:
    return {"set": {"path": path, "modalities": [modality]}}


def test_modalities_can_be_left_out(folder: Path, server: ShardServer, specs: Specs) -> None:
    there = make_pipeline("", specs, sources=only(f"{server.url}/data", "audio"))
    local = make_pipeline("", specs, sources=only(str(folder), "audio"))
    assert_same(steps_of(there, 3), steps_of(local, 3))


def test_the_cache_must_hold_what_is_read_at_once(
    folder: Path, server: ShardServer, specs: Specs, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(s.bytes + 64 * s.samples for s in Manifest.open(folder).shards)
    just = {"max_gb": (size + 1) / 1e9}
    make_pipeline(f"{server.url}/data", specs, cache=just)
    make_pipeline(str(folder), specs, cache={"max_gb": 1e-9})
    small = {"max_gb": (size - 1) / 1e9}
    with pytest.raises(ConfigError) as caught:
        make_pipeline(f"{server.url}/data", specs, cache=small)
    message = str(caught.value)
    assert message.startswith("data.cache.max_gb = ")
    assert "the 4 streams of this node read 2 shards each and fetch the next 2" in message
    assert "set:audio+text 2 shards, " in message
    assert "fewer data.block_shards or fewer data.streams" in message
    # Of a run on four nodes, each holds what one stream reads: half a shard of each stratum.
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    make_pipeline(f"{server.url}/data", specs, 4, cache={"max_gb": 0.52 * size / 1e9})


def test_a_shard_that_is_not_there_ends_the_run(
    folder: Path, server: ShardServer, specs: Specs
) -> None:
    (folder / "003.tar").unlink()
    for workers in (0, 1):
        pipeline = make_pipeline(f"{server.url}/data", specs, workers=workers)
        with pytest.raises(ValueError, match=r"/data/003\.tar can't be fetched, 1 try: HTTP 404"):
            steps_of(pipeline, 40)


def test_a_shard_that_is_another_is_refused(folder: Path, server: ShardServer) -> None:
    tar = folder / "000.tar"
    content = bytearray(tar.read_bytes())
    content[600] ^= 1
    tar.write_bytes(bytes(content))
    there = Manifest.open(f"{server.url}/data", remote=REMOTE)
    with pytest.raises(FetchError, match=r"000\.tar can't be fetched, 2 tries: its sha256 is"):
        there.read_sample(0, 0)
    tar.write_bytes(bytes(content) + bytes(512))
    with pytest.raises(FetchError, match=r"2 tries: the server has \d+ bytes, not \d+"):
        there.read_sample(0, 0)


def test_no_manifest(server: ShardServer) -> None:
    host = server.url.removeprefix("http://")
    with pytest.raises(FetchError) as caught:
        Manifest.open(f"http://me:pw@{host}/none?sig=1", remote=REMOTE)
    assert str(caught.value) == (
        f"there is no manifest: {server.url}/none/manifest.json can't be fetched, 1 try: HTTP 404"
        f" Not Found. Name a folder with a manifest.json, or the tars by a pattern:"
        f" {server.url}/none/{{000..099}}.tar"
    )


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x.tar", "a/../../x.tar", "pipe:touch owned", "http://h/x.tar", "s3://"],
)
def test_a_manifest_names_only_what_is_below_it(
    folder: Path, server: ShardServer, name: str, tmp_path: Path
) -> None:
    file = folder / "manifest.json"
    data = json.loads(file.read_text())
    data["shards"][0]["name"] = name
    file.write_text(json.dumps(data))
    for path in (folder, f"{server.url}/data"):
        with pytest.raises(ValueError, match="leads out of the manifest's folder"):
            Manifest.open(path, remote=REMOTE)
    assert cached(tmp_path) == []


def test_a_manifest_can_not_name_a_file_of_the_cache(folder: Path, server: ShardServer) -> None:
    file = folder / "manifest.json"
    file.write_text(file.read_text().replace('"sha256": "', '"sha256": "../'))
    with pytest.raises(ValueError, match=r"shard 000\.tar: '\.\./\w+' is no sha256"):
        Manifest.open(f"{server.url}/data", remote=REMOTE)


def test_a_pipe_that_the_config_names(folder: Path, specs: Specs) -> None:
    local = read_all(Manifest.open(folder))
    plain(folder)
    pattern = f"pipe:cat {folder}/{{000..005}}.tar"
    assert read_all(Manifest.open(pattern)) == local
    assert_same(
        steps_of(make_pipeline(pattern, specs), 2), steps_of(make_pipeline(str(folder), specs), 2)
    )


def test_a_file_url_is_a_folder(folder: Path, tmp_path: Path) -> None:
    assert Manifest.open(f"file://{folder}").digest() == Manifest.open(folder).digest()
    assert cached(tmp_path) == []


def test_a_cache_that_can_not_be_written(server: ShardServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    there = Manifest.open(
        f"{server.url}/data", cache=CacheConfig(folder=str(tmp_path / "file")), remote=REMOTE
    )
    with pytest.raises(
        FetchError, match=r"the cache .*/file can't be used: Not a directory\. Name"
    ):
        there.read_sample(0, 0)


def test_a_full_disk(server: ShardServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    there = Manifest.open(f"{server.url}/data", remote=REMOTE)
    with pytest.raises(FetchError, match=r"No space left on device\. .* lower data\.cache\.max_gb"):
        there.read_sample(0, 0)
    assert not [name for name in cached(tmp_path) if name != ".lock"]
