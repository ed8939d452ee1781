"""The writer: what is in the tars, the manifest's sums, all or nothing."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from pathlib import Path

import pytest

from mmfm.data.index import ShardIndex, index_path
from mmfm.data.manifest import Manifest
from mmfm_prep.dataset.verify import verify
from mmfm_prep.errors import PrepError
from mmfm_prep.sample import Sample
from mmfm_prep.writer import DatasetWriter, new_folder, write_json


def sample(number: int, split: str = "train", **content: object) -> Sample:
    fields: dict[str, object] = {
        "texts": {"en": [f"text {number}"]},
        "labels": {"odd": "ab"[number % 2]},
    }
    return Sample(
        key=f"{number:04d}",
        id=f"test/{split}/{number}",
        group=str(number),
        split=split,
        **(fields | content),  # type: ignore[arg-type]
    )


def write(folder: Path, samples: list[Sample], per_shard: int = 3) -> dict:
    with DatasetWriter(folder, per_shard) as writer:
        for one in samples:
            writer.write(one)
    return writer.manifest(command="test")


def mixed() -> list[Sample]:
    train = [sample(i, image=b"png%d" % i if i % 2 else None) for i in range(10)]
    return [*train, sample(0, "val", audio=b"flac", texts=None)]


def test_shards_are_homogeneous_and_no_larger_than_asked(tmp_path: Path) -> None:
    manifest = write(tmp_path, mixed())
    assert [(s["name"], s["samples"]) for s in manifest["shards"]] == [
        ("train-image_text-000000.tar", 3),
        ("train-image_text-000001.tar", 2),
        ("train-text-000000.tar", 3),
        ("train-text-000001.tar", 2),
        ("val-audio-000000.tar", 1),
    ]
    assert manifest["totals"] == {"audio": 1, "image+text": 5, "text": 5}
    assert manifest["splits"] == ["train", "val"]
    assert manifest["labels"] == {"odd": ["a", "b"]}


def test_manifest_and_index_agree_with_the_tars(tmp_path: Path) -> None:
    for shard in write(tmp_path, mixed())["shards"]:
        tar = tmp_path / shard["name"]
        data = tar.read_bytes()
        assert len(data) == shard["bytes"]
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]
        index = ShardIndex.load(index_path(tar))
        assert len(index) == shard["samples"]
        assert index.header.modality_sets == shard["modality_sets"]
        start, size = int(index.offsets[0]), int(index.sizes[0])
        with tarfile.open(fileobj=io.BytesIO(data[start : start + size])) as first:
            assert {m.name.split(".")[0] for m in first} == {index.key(0)}


def test_metadata_is_what_was_given(tmp_path: Path) -> None:
    given = sample(7, image=b"picture", source="here", licence="CC0-1.0", meta={"style": "flat"})
    write(tmp_path, [given])
    with tarfile.open(tmp_path / "train-image_text-000000.tar") as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    assert files["0007.png"] == b"picture"
    assert json.loads(files["0007.json"]) == {
        "id": "test/train/7",
        "group": "7",
        "texts": {"en": ["text 7"]},
        "labels": {"odd": "b"},
        "source": "here",
        "licence": "CC0-1.0",
        "style": "flat",
    }


def test_equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, mixed())
    first = {p.name: p.read_bytes() for p in (tmp_path / "a").glob("*.tar")}
    second = {p.name: p.read_bytes() for p in (tmp_path / "b").glob("*.tar")}
    assert first == second


def test_a_folder_whose_name_has_a_percent_sign(tmp_path: Path) -> None:
    folder = tmp_path / "100%d done"
    folder.mkdir()
    write(folder, [sample(1)])
    assert (folder / "train-text-000000.tar").is_file()


def test_ids_and_keys_are_unique(tmp_path: Path) -> None:
    other = sample(1)
    other.id = "another"
    for second, message in ((sample(1), "the id 'test/train/1'"), (other, "the key '0001'")):
        with DatasetWriter(tmp_path) as writer:
            writer.write(sample(1))
            with pytest.raises(PrepError, match=message):
                writer.write(second)


@pytest.mark.parametrize("key", ["a.b", "a/b", "", "ü", "x" * 97])
def test_keys_that_a_tar_could_not_hold_are_refused(key: str) -> None:
    with pytest.raises(PrepError, match="must be 1-96 letters"):
        Sample(key=key, id="i", group="g", split="s")


def fail_midway(target: Path, error: type[BaseException]) -> None:
    with new_folder(target) as folder:
        (folder / "half").write_text("half")
        raise error


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        fail_midway(tmp_path / "out", RuntimeError)
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_the_old_folder_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        fail_midway(tmp_path / "out", KeyboardInterrupt)
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "old"]


def test_a_new_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with new_folder(tmp_path / "out") as folder:
        (folder / "new").write_text("new")
        assert (tmp_path / "out" / "old").is_file()
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "new"]


def test_what_a_killed_process_left_is_removed_but_not_what_is_in_use(tmp_path: Path) -> None:
    left = tmp_path / ".out.abc.partial"
    left.mkdir()
    (left / "a.tar").write_text("half")
    with new_folder(tmp_path / "out") as folder, new_folder(tmp_path / "out") as other:
        assert folder.is_dir()
        assert other.is_dir()
        assert not left.exists()
        (other / "b").touch()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_json_is_written_whole_and_holds_any_name(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"name": "caf\udce9 é"})
    assert json.loads(file.read_bytes()) == {"name": "caf\udce9 é"}
    with pytest.raises(TypeError):
        write_json(file, {"name": b""})
    assert json.loads(file.read_bytes()) == {"name": "caf\udce9 é"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_other_modalities_are_written_and_named(tmp_path: Path) -> None:
    held = {"video": {"gif": b"GIF"}, "price": {"json:cost": 0}}
    samples = [sample(0, others=held), sample(1), sample(0, "val", others=held)]
    samples.append(sample(2, others={"video": {"gif": b""}, "price": {"json:cost": []}}))
    manifest = write(tmp_path, samples)
    assert manifest["totals"] == {"price+text+video": 2, "text": 2}
    assert manifest["endings"] == {"price": ["json:cost"], "video": ["gif"]}
    write_json(tmp_path / "manifest.json", manifest)
    opened = Manifest.open(tmp_path)
    assert opened.read_sample(0, 0)["gif"] == b"GIF"
    assert json.loads(opened.read_sample(0, 0)["json"])["cost"] == 0
    assert ShardIndex.load(index_path(opened.shards[0].path)).set_names == ["price+text+video"]
    for tar in tmp_path.glob("*.tar"):  # what an index needs stands in the manifest
        index_path(tar).unlink()
    again = Manifest.open(tmp_path)
    assert again.index(0).set_names == ["price+text+video"]
    assert again.index(1).set_names == ["text"]
    assert verify(tmp_path) == 0


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"image": {"gif": b"1"}}, "'image' can't be a modality's name"),
        ({"My video": {"gif": b"1"}}, "'My video' can't be a modality's name"),
        ({"depth": {"png": b"1"}}, "'png' must be an ending of its own"),
        ({"price": {"cost": 3.5}}, "'cost' must be an ending of its own"),
    ],
)
def test_other_modalities_that_cant_be(others: dict, message: str) -> None:
    with pytest.raises(PrepError, match=re.escape(message)):
        sample(0, others=others)
