"""Manifests, plain tars and their indexes: what is found, what is refused, what is read."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import pickle
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

import mmfm.data.transforms
from mmfm.data import manifest as manifest_module
from mmfm.data import plain_tars
from mmfm.data.endings import modality_endings
from mmfm.data.index import ShardIndex, cache_path, index_path, read_header
from mmfm.data.manifest import Manifest, build_index
from mmfm.data.order import Order
from mmfm.data.reader import SampleReader
from mmfm.data.strata import build_strata
from mmfm.data.tar import parse_run, split_name

ENDINGS = {"image": ("png", "jpg"), "text": ("txt", "json:texts"), "audio": ("wav", "flac")}
ENDINGS["history"] = ("json:history",)
Files = list[tuple[str, bytes]]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


def write_tar(path: Path, files: Files, format: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def texts(**more: Any) -> bytes:
    return json.dumps({"texts": ["a", "b"], **more}).encode()


MIXED: Files = [
    ("000.png", b"p" * 700),
    ("000.json", texts()),
    ("001.wav", b"w" * 512),
    ("002.png", b"q"),
    ("002.txt", b"hello"),
    ("002.wav", b""),
    ("003.pyd", b"cos\nsystem\n"),
    ("004.json", b'{"texts": []}'),
    ("004.JPG", b"j"),
    ("005.json", b"{broken"),
    ("005.flac", b"f"),
]
MIXED_SETS = [
    "image+text", "audio", "audio+image+text", "", "image", "audio",
]  # fmt: skip


def write_set(
    folder: Path, shards: dict[str, tuple[str, Files]], splits: list[str], **more: Any
) -> Path:
    """A data set with manifest and indexes, as the writer makes it."""
    entries = []
    for name, (split, files) in shards.items():
        tar = write_tar(folder / name, files)
        index = build_index(tar, ENDINGS)
        index.save(index_path(tar))
        entries.append(
            {
                "name": name,
                "bytes": tar.stat().st_size,
                "sha256": hashlib.sha256(tar.read_bytes()).hexdigest(),
                "samples": len(index),
                "modality_sets": index.header.modality_sets,
                "split": split,
            }
        )
    data = {"format": 1, "splits": splits, "labels": {"kind": ["x", "y"]}, "shards": entries}
    (folder / "manifest.json").write_text(json.dumps(data | more))
    return folder


def two_shards(folder: Path) -> Path:
    return write_set(
        folder,
        {
            "train-0.tar": ("train", [(f"{i}.txt", b"t%d" % i) for i in range(3)]),
            "val-0.tar": ("validation", [("9.txt", b"nine")]),
        },
        ["train", "validation", "test"],
    )


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


# --- the index of one tar ---


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_index_finds_every_sample_and_its_modalities(tmp_path: Path, format: int) -> None:
    tar = write_tar(tmp_path / "a.tar", MIXED, format)
    index = build_index(tar, ENDINGS)
    assert index.keys == ["000", "001", "002", "003", "004", "005"]
    assert [index.set_names[c] for c in index.set_codes] == MIXED_SETS
    assert index.header.modality_sets == dict(Counter(MIXED_SETS))
    assert index.header.sha256 == hashlib.sha256(tar.read_bytes()).hexdigest()
    assert index.members("audio").tolist() == [1, 5]
    data = tar.read_bytes()
    runs = [
        parse_run(data[o : o + s], k)
        for o, s, k in zip(index.offsets, index.sizes, index.keys, strict=True)
    ]
    assert runs[0] == {"png": b"p" * 700, "json": texts()}
    assert runs[2] == {"png": b"q", "txt": b"hello", "wav": b""}
    assert runs[3] == {"pyd": b"cos\nsystem\n"}  # returned as it is, never unpickled
    assert runs[4]["jpg"] == b"j"


def test_index_agrees_with_webdataset(tmp_path: Path) -> None:
    """Its writer's shards are indexed, and its reader groups the same keys to the same bytes."""
    path = tmp_path / "w-000.tar"
    rng = np.random.default_rng(0)
    with webdataset.TarWriter(str(path)) as writer:
        for i in range(20):
            files = {"png": rng.bytes(int(rng.integers(0, 2000))), "txt": f"caption {i}"}
            writer.write({"__key__": f"deep/folder/{i:03d}", **files})
    index = build_index(path, ENDINGS)
    seen = list(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False))
    assert index.keys == [s["__key__"] for s in seen]
    data = path.read_bytes()
    for i, sample in enumerate(seen):
        run = data[index.offsets[i] : index.offsets[i] + index.sizes[i]]
        expected = {k: v for k, v in sample.items() if not k.startswith("__")}
        assert parse_run(run, sample["__key__"]) == expected


def test_long_and_foreign_names_survive(tmp_path: Path) -> None:
    long = "häuser/" + "x" * 180 + "/é"
    files = [(long + ".txt", b"1"), (long + ".seg.png", b"2"), ("b.txt", b"3")]
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        tar = write_tar(tmp_path / "a.tar", files, format)
        index = build_index(tar, ENDINGS)
        assert index.keys == [long, "b"]
        index.save(tmp_path / "i")
        loaded = ShardIndex.load(tmp_path / "i")
        assert loaded.keys == [long, "b"]
        run = tar.read_bytes()[: index.sizes[0]]
        assert parse_run(run, long) == {"txt": b"1", "seg.png": b"2"}


def test_names() -> None:
    assert split_name("a/b.c/key.seg.PNG") == ("a/b.c/key", "seg.png")
    assert split_name("a/._hidden.png") is None
    assert split_name("a.b/README") is None


def test_files_without_a_key_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tar = write_tar(tmp_path / "a.tar", [("README", b"x"), ("._0.png", b"m"), ("0.png", b"p")])
    with caplog.at_level(logging.WARNING):
        index = build_index(tar, ENDINGS)
    assert index.keys == ["0"]
    assert index.header.ignored == 2
    assert "2 files belong to no sample" in caplog.text


def test_index_survives_saving(tmp_path: Path) -> None:
    index = build_index(write_tar(tmp_path / "a.tar", MIXED), ENDINGS)
    index.save(tmp_path / "i")
    loaded = ShardIndex.load(tmp_path / "i")
    assert loaded.header == index.header == read_header(tmp_path / "i")
    assert loaded.keys == index.keys
    for name in ("offsets", "sizes", "set_codes"):
        assert np.array_equal(getattr(loaded, name), getattr(index, name))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "i"]


def test_an_index_that_is_damaged_is_refused(tmp_path: Path) -> None:
    index = build_index(write_tar(tmp_path / "a.tar", MIXED), ENDINGS)
    index.save(tmp_path / "i")
    whole = (tmp_path / "i").read_bytes()
    start = whole.index(b"\n") + 1
    for damaged in (
        whole[: start + 30],
        whole[:-1],
        whole[:start] + b"\xff" * 8 + whole[start + 8 :],  # a negative offset
        whole[: start + 8] + bytes(8) + whole[start + 16 :],  # two samples in one place
    ):
        (tmp_path / "i").write_bytes(damaged)
        with pytest.raises(ValueError, match="delete it, and it is made again"):
            ShardIndex.load(tmp_path / "i")
    (tmp_path / "i").write_bytes(pickle.dumps(index.header))
    with pytest.raises(ValueError, match="no index of this version"):
        ShardIndex.load(tmp_path / "i")


def test_keys_that_occur_twice_are_named(tmp_path: Path) -> None:
    apart = write_tar(tmp_path / "a.tar", [("x.png", b""), ("y.png", b""), ("x.txt", b"")])
    with pytest.raises(ValueError, match=r"a\.tar has keys more than once \(x\)"):
        build_index(apart, ENDINGS)
    adjacent = write_tar(tmp_path / "b.tar", [("x.png", b"1"), ("x.png", b"2")])
    with pytest.raises(ValueError, match=r"b\.tar has keys more than once \(x\)"):
        build_index(adjacent, ENDINGS)


def test_a_tar_cut_anywhere_is_refused(tmp_path: Path) -> None:
    """Also at the border of a member or inside a later header, where tarfile stops in silence."""
    tar = write_tar(tmp_path / "a.tar", [(f"{i}.txt", b"x" * 600) for i in range(3)])
    whole = tar.read_bytes()
    content = 3 * (512 + 1024)
    for cut in [
        0,
        100,
        512,
        700,
        1536,
        1600,
        2048,
        3071,
        3072,
        content - 1,
        content,
        content + 100,
    ]:
        tar.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"a\.tar .*at byte \d+"):
            build_index(tar, ENDINGS)
    tar.write_bytes(whole[:2100])
    with pytest.raises(
        ValueError, match=r"truncated at byte 2100: '1\.txt' needs the bytes 2048 to"
    ):
        build_index(tar, ENDINGS)
    tar.write_bytes(whole[: content + 512])
    assert len(build_index(tar, ENDINGS)) == 3


def test_a_damaged_header_and_joined_tars_are_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [(f"{i}.txt", b"x") for i in range(3)])
    whole = tar.read_bytes()
    tar.write_bytes(whole[:1024] + b"\x55" * 512 + whole[1536:])
    with pytest.raises(
        ValueError, match=r"neither a tar header nor the archive's end at byte 1024"
    ):
        build_index(tar, ENDINGS)
    tar.write_bytes(whole + whole)
    with pytest.raises(ValueError, match="joined"):
        build_index(tar, ENDINGS)


def test_a_compressed_tar_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("0.txt"))
    with pytest.raises(ValueError, match="not an uncompressed tar"):
        build_index(tmp_path / "a.tar", ENDINGS)


def test_a_new_transform_needs_no_change_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "video_of_the_test.py").write_text('ENDINGS = ("mp4",)\n')
    (tmp_path / "helper_of_the_test.py").write_text("NOTHING = 0\n")
    search = [*mmfm.data.transforms.__path__, str(tmp_path)]
    monkeypatch.setattr(mmfm.data.transforms, "__path__", search)
    found = modality_endings()
    assert found["video_of_the_test"] == ("mp4",)
    assert "helper_of_the_test" not in found
    assert {"image", "text", "audio"} <= set(found)
    tar = write_tar(tmp_path / "a.tar", [("0.mp4", b""), ("0.txt", b"")])
    assert build_index(tar).set_names == ["text+video_of_the_test"]


# --- manifests ---


def test_manifest_by_split(tmp_path: Path) -> None:
    folder = two_shards(tmp_path / "set")
    everything = Manifest.open(folder)
    assert [s.name for s in everything.shards] == ["train-0.tar", "val-0.tar"]
    assert len(everything) == 4
    assert everything.label_names == {"kind": ["x", "y"]}
    train = Manifest.open(folder / "manifest.json", ["train"])
    assert [s.samples for s in train.shards] == [3]
    assert train.read_sample(0, 2) == {"txt": b"t2"}
    assert Manifest.open(folder, ["validation", "train"]).digest() == everything.digest()
    assert train.digest() != everything.digest()


def test_manifest_by_modality(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", {"a.tar": ("train", MIXED)}, ["train"])
    whole = Manifest.open(folder)
    part = Manifest.open(folder, modalities=["text", "image"])
    names = part.index(0).set_names
    assert [names[c] for c in part.index(0).set_codes] == [
        "image+text", "", "image+text", "", "image", "",
    ]  # fmt: skip
    assert part.shards[0].modality_sets == part.index(0).header.modality_sets
    assert part.shards[0].modality_sets == {"image+text": 2, "": 3, "image": 1}
    assert part.read_sample(0, 2) == whole.read_sample(0, 2)
    assert part.digest() != whole.digest()
    images = [s for s in build_strata([("a", part, None)])[0] if s.modality_set == "image"]
    assert [images[0].locate(i) for i in range(images[0].samples)] == [(0, 4)]
    read = SampleReader([("a", part)]).read(0, 0, 2)
    assert read.modalities == ("image", "text")
    copied = pickle.loads(pickle.dumps(part))
    assert copied.index(0).set_names == names
    for wrong in (["imgae"], []):
        with pytest.raises(ValueError, match="have audio, image, text"):
            Manifest.open(folder, modalities=wrong)


def test_digest_does_not_depend_on_where_the_data_lie(tmp_path: Path) -> None:
    one, two = two_shards(tmp_path / "one"), two_shards(tmp_path / "elsewhere" / "two")
    assert Manifest.open(one).digest() == Manifest.open(two).digest()
    edit(two, lambda d: d["labels"]["kind"].reverse())
    assert Manifest.open(one).digest() != Manifest.open(two).digest()


def test_unknown_split_and_empty_split(tmp_path: Path) -> None:
    folder = two_shards(tmp_path)
    with pytest.raises(ValueError, match=r"no split 'vaildation'; did you mean 'validation'\?"):
        Manifest.open(folder, ["train", "vaildation"])
    with pytest.raises(ValueError, match="lists no shards of"):
        Manifest.open(folder, ["test"])


def test_missing_and_changed_shards(tmp_path: Path) -> None:
    folder = two_shards(tmp_path)
    tar = folder / "val-0.tar"
    tar.write_bytes(tar.read_bytes() + b"\0" * 512)
    with pytest.raises(ValueError, match=r"val-0\.tar has \d+ bytes, .* says \d+.*Copy it again"):
        Manifest.open(folder)
    tar.unlink()
    with pytest.raises(ValueError, match=r"val-0\.tar is missing, .* lists it: copy it there"):
        Manifest.open(folder)
    assert len(Manifest.open(folder, ["train"])) == 3  # other splits may stay away


@pytest.mark.parametrize("name", ["../out.tar", "/etc/passwd", ""])
def test_a_shard_name_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    folder = two_shards(tmp_path)
    edit(folder, lambda d: d["shards"][0].update(name=name))
    with pytest.raises(ValueError, match="leads out of the manifest's folder"):
        Manifest.open(folder)


def test_manifests_that_make_no_sense(tmp_path: Path) -> None:
    folder = two_shards(tmp_path)
    edit(folder, lambda d: d["shards"][0].update(samples=7))
    with pytest.raises(ValueError, match="7 samples, but by modality set"):
        Manifest.open(folder)
    edit(folder, lambda d: d["shards"][0].update(samples=3, bytes=-1))
    with pytest.raises(ValueError, match="has -1 bytes"):
        Manifest.open(folder)
    edit(folder, lambda d: d.update(format=99))
    with pytest.raises(ValueError, match="format 99"):
        Manifest.open(folder)
    edit(folder, lambda d: (d.update(format=1), d.pop("shards")))
    with pytest.raises(ValueError, match="shards"):
        Manifest.open(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json can't be read"):
        Manifest.open(folder)


def test_an_index_that_is_missing_or_stale_is_made_again(tmp_path: Path) -> None:
    folder = two_shards(tmp_path)
    tar = folder / "train-0.tar"
    expected = Manifest.open(folder).index(0).keys
    other = build_index(folder / "val-0.tar", ENDINGS)
    for damage in (
        lambda: index_path(tar).unlink(),
        lambda: other.save(index_path(tar)),
        lambda: index_path(tar).write_bytes(b"\x80\x04nonsense"),
    ):
        damage()
        assert Manifest.open(folder).index(0).keys == expected
        assert ShardIndex.load(index_path(tar)).keys == expected


def test_another_tar_of_the_same_size_is_refused(tmp_path: Path) -> None:
    folder = two_shards(tmp_path)
    write_tar(folder / "train-0.tar", [(f"{i}.txt", b"u%d" % i) for i in range(3)])
    index_path(folder / "train-0.tar").unlink()
    with pytest.raises(ValueError, match="is not the one in the manifest: its sha256"):
        Manifest.open(folder).index(0)


def test_other_modalities_than_the_manifest_says(tmp_path: Path) -> None:
    folder = two_shards(tmp_path)
    edit(folder, lambda d: d["shards"][0].update(modality_sets={"image": 3}))
    with pytest.raises(ValueError, match=r"holds \{'text': 3\}, its manifest says \{'image': 3\}"):
        Manifest.open(folder).index(0)


def test_a_sample_that_is_not_where_the_index_says(tmp_path: Path) -> None:
    folder = two_shards(tmp_path)
    tar = folder / "train-0.tar"
    write_tar(tar, [(f"{i}.txt", b"t%d" % i) for i in (1, 0, 2)])
    with pytest.raises(ValueError, match=r"train-0\.tar, sample at byte 0: expected .* of '0'"):
        Manifest.open(folder).read_sample(0, 0)
    manifest = Manifest.open(folder)
    manifest.index(0)
    tar.write_bytes(tar.read_bytes()[:2100])
    with pytest.raises(ValueError, match=r"byte 2048: the file ends after 52 of 1024 bytes"):
        manifest.read_sample(0, 2)
    tar.unlink()
    with pytest.raises(ValueError, match=r"train-0\.tar can't be read at byte 0"):
        Manifest(manifest.shards).read_sample(0, 0)
    index_path(tar).unlink()
    with pytest.raises(ValueError, match=r"train-0\.tar is missing: it was there"):
        Manifest(manifest.shards).read_sample(0, 0)


def test_manifest_goes_to_a_worker(tmp_path: Path) -> None:
    manifest = Manifest.open(two_shards(tmp_path))
    manifest.read_sample(0, 0)
    sent = pickle.loads(pickle.dumps(manifest))
    assert sent.read_sample(1, 0) == {"txt": b"nine"}
    assert sent.digest() == manifest.digest()


# --- plain tars ---


def test_plain_tars_by_folder_tar_brace_and_glob(tmp_path: Path) -> None:
    for i in range(3):
        write_tar(tmp_path / "d" / f"s-{i}.tar", [(f"{i}.txt", b"t"), (f"{i}.png", b"p")])
    names = ["s-0.tar", "s-1.tar", "s-2.tar"]
    folder = str(tmp_path / "d")
    for path in (folder, f"{folder}/s-{{0..2}}.tar", f"{folder}/s-?.tar"):
        manifest = Manifest.open(path)
        assert [s.name for s in manifest.shards] == names
        assert manifest.shards[0].modality_sets == {"image+text": 1}
        assert manifest.read_sample(2, 0) == {"txt": b"t", "png": b"p"}
    assert [s.name for s in Manifest.open(f"{folder}/s-1.tar").shards] == ["s-1.tar"]
    apart = Manifest.open(f"{tmp_path}/{{d,e}}/s-[01].tar")
    assert [s.name for s in apart.shards] == names[:2]
    write_tar(tmp_path / "e" / "s-0.tar", [("7.txt", b"t")])
    apart = Manifest.open(f"{tmp_path}/*/s-0.tar")
    assert [s.name for s in apart.shards] == ["d/s-0.tar", "e/s-0.tar"]


def test_plain_tars_are_indexed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = write_tar(tmp_path / "a.tar", MIXED)
    built: list[Path] = []

    def counted(path: Path, endings: Any) -> ShardIndex:
        built.append(path)
        return build_index(path, endings)

    monkeypatch.setattr(plain_tars, "build_index", counted)
    for _ in range(3):
        assert Manifest.open(tmp_path).index(0).keys[0] == "000"
    assert built == [tar]
    # The file is exchanged for another: its old index is not believed.
    write_tar(tar, [("x.txt", b"1")])
    assert Manifest.open(tmp_path).index(0).keys == ["x"]
    write_tar(tar, [("y.txt", b"1")])  # of equal size
    assert Manifest.open(tmp_path).index(0).keys == ["y"]
    # Another modality may see more in the same files.
    monkeypatch.setattr(manifest_module, "modality_endings", lambda _: {"note": ("txt",)})
    assert Manifest.open(tmp_path).shards[0].modality_sets == {"note": 1}
    assert len(built) == 4


def test_the_index_goes_to_the_users_cache_where_the_folder_cant_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tar = write_tar(tmp_path / "a.tar", MIXED)
    save, refused = ShardIndex.save, {index_path(tar)}

    def refusing(self: ShardIndex, path: Path) -> None:
        if path in refused:
            raise PermissionError(path)
        save(self, path)

    monkeypatch.setattr(ShardIndex, "save", refusing)
    assert len(Manifest.open(tmp_path)) == len(MIXED_SETS)
    assert not index_path(tar).exists()
    assert cache_path(tar).is_file()
    with monkeypatch.context() as patch:
        patch.setattr(manifest_module, "build_index", None)  # not needed again
        assert Manifest.open(tmp_path).index(0).keys[1] == "001"
    cache_path(tar).unlink()
    refused.add(cache_path(tar))
    with caplog.at_level(logging.WARNING):
        assert Manifest.open(tmp_path).index(0).keys[1] == "001"
    assert "can't be kept" in caplog.text
    assert not cache_path(tar).exists()


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"neither a manifest\.json nor a \.tar"):
        Manifest.open(tmp_path)
    with pytest.raises(ValueError, match="there is no data at"):
        Manifest.open(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no manifest"):
        Manifest.open(tmp_path / "manifest.json")
    write_tar(tmp_path / "a-0.tar", [("0.txt", b"")])
    with pytest.raises(ValueError, match=r"there is no data at .*a-1\.tar"):
        Manifest.open(f"{tmp_path}/a-{{0..1}}.tar")
    with pytest.raises(ValueError, match="has no splits"):
        Manifest.open(tmp_path, ["train"])


# --- the order over real, mixed shards ---


def test_mixed_shards_are_split_into_strata(tmp_path: Path) -> None:
    """Every sample of every stratum once an epoch, read from its place with its modalities."""
    kinds = [("png",), ("png", "txt"), ("wav",)]
    for shard in range(3):
        files = []
        for i in range(30):
            for ending in kinds[(i * 7 + shard) % 3 if i > shard else 0]:
                files.append((f"{shard}-{i}.{ending}", b"%d" % i))
        write_tar(tmp_path / f"{shard}.tar", files)
    manifest = Manifest.open(tmp_path)
    order = Order([("plain", manifest, None)], seed=2, streams=2, global_batch_size=12)
    names = [s.modality_set for s in order.strata]
    assert names == ["audio", "image", "image+text"]
    assert sum(s.samples for s in order.strata) == 90
    endings = {"audio": {"wav"}, "image": {"png"}, "image+text": {"png", "txt"}}
    seen: Counter[tuple[int, int]] = Counter()
    for step in range(30):
        for draw in order.rank_draws(step, 0, 1):
            if draw.epoch == 0:
                seen[draw.shard, draw.index] += 1
            files = manifest.read_sample(draw.shard, draw.index)
            assert set(files) == endings[names[draw.stratum]]
    assert seen == Counter({(s, i): 1 for s in range(3) for i in range(30)})


def sparse_tar(path: Path) -> Path:
    """A file with a hole, a link and a device beside a text."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            other = tarfile.TarInfo("0.png")
            other.type, other.linkname = kind, "0.txt"
            tar.addfile(other)
        holes = tarfile.TarInfo("0.jpg")
        holes.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "0.jpg",
            "GNU.sparse.realsize": "100",
        }
        content = b"1\n90\n10\n".ljust(512, b"\0") + b"0123456789"
        holes.size = len(content)
        tar.addfile(holes, io.BytesIO(content))
        text = tarfile.TarInfo("0.txt")
        text.size = 3
        tar.addfile(text, io.BytesIO(b"abc"))
        tar.addfile(other)
    return path


def test_links_devices_and_sparse_files_are_no_files_of_a_sample(tmp_path: Path) -> None:
    tar = sparse_tar(tmp_path / "a.tar")
    index = build_index(tar, ENDINGS)
    assert index.header.ignored == 6
    assert index.header.modality_sets == {"text": 1}
    start, size = int(index.offsets[0]), int(index.sizes[0])
    assert parse_run(tar.read_bytes()[start : start + size], "0") == {"txt": b"abc"}
    with_link = tar.read_bytes()[start : start + size + 512]
    assert parse_run(with_link, "0") == {"txt": b"abc"}


@pytest.mark.parametrize("what", ["folder", "dangling link", "pipe"])
def test_a_shard_that_is_no_file_is_refused(what: str, tmp_path: Path) -> None:
    tar = tmp_path / "a.tar"
    if what == "folder":
        tar.mkdir()
    elif what == "pipe":
        os.mkfifo(tar)
    else:
        tar.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"a\.tar is missing, or is no file"):
        Manifest.open(tmp_path)


def test_headers_that_no_tar_has_are_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [("0.png", b"p"), ("1.png", b"q")])
    backwards = []  # a negative size: this header would be read for ever
    for size in (b"\xff" * 11 + b"\0", b"-0000000512\0"):
        header = bytearray(tar.read_bytes()[:512])
        header[124:136] = size
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        backwards.append(bytes(header) + tar.read_bytes()[512:])
    name = tarfile.TarInfo("././@LongLink")
    name.type = tarfile.GNUTYPE_LONGNAME
    chain = name.tobuf(tarfile.GNU_FORMAT) * 5_000 + tar.read_bytes()
    for damaged in (*backwards, chain):
        tar.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.tar is not an uncompressed tar, or is damaged"):
            build_index(tar, ENDINGS)
        with pytest.raises(ValueError, match="expected the files of '0'"):
            parse_run(damaged, "0")


def test_a_sample_whose_json_is_none_counts_among_its_kind(tmp_path: Path) -> None:
    """In a stratum of its own nothing could take its place, and the run would stop."""
    captioned = json.dumps({"texts": ["a"]}).encode()
    bad = b"[" * 100_000
    members = [(f"{i}.{e}", c) for i in "01" for e, c in (("png", b"p"), ("json", captioned))]
    members += [("2.png", b"p"), ("2.json", bad), ("3.png", b"p"), ("4.txt", b"t")]
    members += [("5.png", b"p"), ("5.json", b"[1]"), ("6.flac", b"f"), ("6.json", b"{")]
    index = build_index(write_tar(tmp_path / "a.tar", members), ENDINGS)
    assert index.header.modality_sets == {"audio": 1, "image": 1, "image+text": 4, "text": 1}
