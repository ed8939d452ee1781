"""WebDataset tars by others, and by mmfm, written anew."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.prep.sources.making import dataset, make, picture, reasons, sound


def write(path: Path, files: dict[str, Any]) -> Path:
    """A tar of the files; what isn't bytes becomes JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_what_img2dataset_writes(tmp_path: Path) -> None:
    files: dict[str, Any] = {}
    for number in range(3):
        key = f"{number:09d}"
        about = {"caption": f"picture {number}", "url": "http://x/y", "key": key, "width": 20}
        files[f"{key}.jpg"] = picture(tmp_path / "a.jpg", number)
        files[f"{key}.txt"] = about["caption"].encode()
        files[f"{key}.json"] = about
    write(tmp_path / "cc12m/00000.tar", files)
    (tmp_path / "cc12m/00000.parquet").write_bytes(b"x")
    (tmp_path / "cc12m/00000_stats.json").write_text("{}")
    assert make("shards", tmp_path / "cc12m", tmp_path / "out", "media.image_longest=8") == 0
    manifest, found = dataset(tmp_path / "out")
    assert manifest["totals"] == {"image+text": 3}
    one = found["00000.tar/000000001"]
    assert one["texts"] == {"en": ["picture 1"]}
    assert (one["url"], one["width"], one["licence"]) == ("http://x/y", 20, "unknown")
    assert len(one["files"]["jpg"]) < len(files["000000001.jpg"])
    assert manifest["notes"]["left_out"] == manifest["notes"]["ignored_files"] == {}


def test_names_of_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = {"n": {"id": 7}, "title": "Ein Hund", "kind": "dog", "set": "test", "shot": "s1"}
    about["licence"] = "unclear"
    rest = {"n": {"id": 8}, "title": "Eine Katze", "kind": "cat", "set": "train"}
    files = {
        "a.json": about, "a.txt": b"not this", "a.wav": sound(tmp_path / "x.wav"), "a.pkl": b"\x80",
        "b.json": {**about, "n": {"id": 8}}, "c.json": rest,
    }  # fmt: skip
    write(tmp_path / "t/x.tar", files)
    words = ["texts.de=[title]", "labels=[kind]", "id=n.id", "split=set", "group=shot"]
    words += ["licence=CC0-1.0"]
    assert make("shards", tmp_path / "t/x.tar", tmp_path / "out", *words) == 0
    assert "ignored: 1 .pkl" in capsys.readouterr().err
    manifest, found = dataset(tmp_path / "out")
    assert {name: (o["split"], o["group"], o["labels"]) for name, o in found.items()} == {
        "7": ("test", "s1", {"kind": "dog"}), "8": ("test", "s1", {"kind": "dog"}),
    }  # fmt: skip
    assert found["7"]["texts"] == {"de": ["Ein Hund"]}
    assert found["7"]["licence"] == "CC0-1.0"
    assert list(found["7"]["files"]) == ["wav"]
    assert reasons(manifest) == {"shot is empty": ["x.tar/c"]}
    assert manifest["notes"]["ignored_files"] == {"pkl": 1}
    assert make("shards", tmp_path / "t/x.tar", tmp_path / "two", "labels=[kin]") == 2
    assert "there is no JSON key 'kin'; did you mean 'kind'?" in capsys.readouterr().err


def test_classes_endings_and_splits_by_name(tmp_path: Path) -> None:
    data = picture(tmp_path / "a.png")
    write(tmp_path / "set/train/0.tar", {"a.view.png": data, "a.cls": b"3\n", "a.png": b"broken"})
    write(tmp_path / "set/val/0.tar", {"a.view.png": picture(tmp_path / "b.png", 1)})
    write(tmp_path / "set/x-val-0.tar", {"b.view.png": data, "b.cls": b"4"})
    write(tmp_path / "set/y.tar", {"c.view.png": data})
    words = ["image=[view.png]", "split_files=true", "label=number"]
    assert make("shards", tmp_path / "set", tmp_path / "out", *words) == 0
    manifest, found = dataset(tmp_path / "out")
    assert {n: (o["split"], o["labels"]) for n, o in found.items()} == {
        "train/0.tar/a": ("train", {"number": "3"}),
        "val/0.tar/a": ("val", {}),
        "x-val-0.tar/b": ("val", {"number": "4"}),
    }
    assert reasons(manifest) == {
        "neither its tar's name nor its folder's tells a split": ["y.tar/c"],
    }
    assert manifest["notes"]["ignored_files"] == {"png": 1}
    assert make("shards", tmp_path / "set/*/*.tar", tmp_path / "two", *words) == 0
    assert set(dataset(tmp_path / "two")[1]) == {"train/0.tar/a", "val/0.tar/a"}


def test_a_dataset_of_mmfm(tmp_path: Path) -> None:
    """Everything that mmfm wrote stays what it was."""
    for number, name in enumerate(("train/cat/a.png", "val/dog/b.png")):
        picture(tmp_path / "photos" / name, number)
    (tmp_path / "photos/train/cat/a.txt").write_text("a cat")
    words = ["split_folders=true", "licence=CC0-1.0"]
    assert make("image_folder", tmp_path / "photos", tmp_path / "one", *words) == 0
    assert make("shards", tmp_path / "one", tmp_path / "two") == 0
    (first, before), (second, after) = dataset(tmp_path / "one"), dataset(tmp_path / "two")
    assert {n: {**o, "key": ""} for n, o in before.items()} == {
        n: {**o, "key": ""} for n, o in after.items()
    }
    for key in ("splits", "labels", "totals", "held_out"):
        assert first[key] == second[key]


def test_what_the_json_says_stays(tmp_path: Path) -> None:
    one = {"id": 1, "texts": {"de": ["eins"]}, "licence": "CC-BY-4.0", "source": "here", "n": [2]}
    person = {"id": "p", "history": [1, "x"], "group": "g"}
    write(tmp_path / "a.tar", {"1.json": one, "2.json": person})
    assert make("shards", tmp_path / "a.tar", tmp_path / "out") == 0
    manifest, found = dataset(tmp_path / "out")
    assert manifest["totals"] == {"history": 1, "text": 1}
    assert (found["p"]["history"], found["p"]["group"]) == (["1", "x"], "g")
    kept = {key: found["1"][key] for key in ("texts", "licence", "source", "n")}
    assert kept == {key: one[key] for key in kept}


def test_what_is_damaged_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = picture(tmp_path / "a.png")
    files = {"a.png": data, "a.json": {"id": "x"}, "b.png": data, "b.json": b"[", "c.png": b"no"}
    files |= {"d.txt": b"caf\xe9", "e.json": {"id": "x", "texts": "two"}, "f.json": {"a": 1}}
    write(tmp_path / "t/0.tar", files)
    write(tmp_path / "t/1.tar", files)
    (tmp_path / "t/1.tar").write_bytes((tmp_path / "t/1.tar").read_bytes()[:1500])
    assert make("shards", tmp_path / "t", tmp_path / "out") == 0
    assert "1.tar is truncated at byte 1500" in capsys.readouterr().err
    manifest, found = dataset(tmp_path / "out")
    assert set(found) == {"x"}
    assert reasons(manifest) == {
        "JSON is no object": ["0.tar/b"],
        "picture is unreadable": ["0.tar/c"],
        "its text is not UTF-8": ["0.tar/d"],
        "id is there already": ["0.tar/e"],
        "has no picture, sound or text": ["0.tar/f"],
        "a tar can't be read, with all that is in it": ["1.tar"],
    }


@pytest.mark.parametrize(
    ("place", "message"),
    [("empty", "neither a manifest.json nor a .tar"), ("gone.tar", "there is no data at")],
)
def test_no_tars(
    tmp_path: Path, place: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert make("shards", tmp_path / place, tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert make("shards", tmp_path / "empty", tmp_path / "out", "split=a", "split_files=true") == 2
    assert "split and split_files: name one of them" in capsys.readouterr().err
