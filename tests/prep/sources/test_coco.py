"""COCO's JSON files and folders, and what they are when others write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.prep.sources.making import dataset, make, picture, reasons


def write(path: Path, images: list[str], annotations: list[dict[str, Any]], **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = [{"id": number, "file_name": name} for number, name in enumerate(images)]
    path.write_text(json.dumps({"images": listed, "annotations": annotations, **more}))


def caption(image: Any, text: str) -> dict[str, Any]:
    return {"image_id": image, "caption": text}


CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]


def test_cocos_own_folders(tmp_path: Path) -> None:
    for name in ("train2017/a.jpg", "train2017/b.jpg", "val2017/c.jpg"):
        picture(tmp_path / "coco" / name, ord(name[-5]) % 5)
    said = [caption(0, "A cat. "), caption(0, "Cat."), caption(5, "Gone."), {"image_id": 1}]
    write(tmp_path / "coco/annotations/captions_train2017.json", ["a.jpg", "b.jpg", "no.jpg"], said)
    write(tmp_path / "coco/annotations/captions_val2017.json", ["c.jpg"], [caption(0, "A dog.")])
    boxes = [{"image_id": 0, "category_id": n} for n in (7, 7, 9)]
    boxes += [{"image_id": 1, "category_id": 9}]
    instances = tmp_path / "coco/annotations/instances_train2017.json"
    write(instances, ["a.jpg", "b.jpg"], boxes, categories=CATEGORIES)
    assert make("coco", tmp_path / "coco", tmp_path / "out") == 0
    manifest, found = dataset(tmp_path / "out")
    assert {name: (one["split"], one.get("texts")) for name, one in found.items()} == {
        "train/a.jpg": ("train", {"en": ["A cat.", "Cat."]}),
        "train/b.jpg": ("train", None),
        "val/c.jpg": ("val", {"en": ["A dog."]}),
    }
    assert reasons(manifest) == {
        "annotation of an image that is not listed": ["captions_train2017.json:annotations.2"],
        "annotation has neither caption nor category": ["captions_train2017.json:annotations.3"],
        "file is missing": ["captions_train2017.json:no.jpg"],
    }
    assert manifest["held_out"] == ["val"]
    more = ["kinds=[captions, instances]", "label=what"]
    assert make("coco", tmp_path / "coco", tmp_path / "all", *more) == 0
    _, found = dataset(tmp_path / "all")
    both, one = found["train/a.jpg"], found["train/b.jpg"]
    assert (both["texts"]["en"][0], both["categories"], both["labels"]) == (
        "A cat.",
        ["cat", "dog"],
        {},
    )
    assert (one["categories"], one["labels"]) == (["dog"], {"what": "dog"})


def test_one_file(tmp_path: Path) -> None:
    picture(tmp_path / "photos/a.jpg")
    write(tmp_path / "mine.json", ["a.jpg"], [caption(0, "Eine Katze")])
    words = [f"images={tmp_path}/photos", "language=de", "split=test"]
    assert make("coco", tmp_path / "mine.json", tmp_path / "out", *words) == 0
    _, found = dataset(tmp_path / "out")
    assert found["test/a.jpg"]["texts"] == {"de": ["Eine Katze"]}
    assert found["test/a.jpg"]["split"] == "test"


def test_a_folder_for_each_split(tmp_path: Path) -> None:
    """As Roboflow exports them."""
    for number, split in enumerate(("train", "valid")):
        picture(tmp_path / f"set/{split}/a.jpg", number)
        box = [{"image_id": 0, "category_id": 7}]
        path = tmp_path / f"set/{split}/_annotations.coco.json"
        write(path, ["a.jpg"], box, categories=CATEGORIES)
    words = ["coco", tmp_path / "set", tmp_path / "out"]
    assert make(*words, "kinds=[coco]") == 0
    _, found = dataset(tmp_path / "out")
    assert {name: one["split"] for name, one in found.items()} == {
        "train/a.jpg": "train", "val/a.jpg": "val",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "a.json: not JSON"),
        ("[1]", "a.json is not as COCO writes it: it has no list of objects 'images'"),
        ('{"images": [], "annotations": [1]}', "no list of objects 'annotations'"),
        ('{"images": [], "annotations": []}', "gives no sample"),
        ('{"images": [{"id": 1, "file_name": "x"}], "annotations": []}', "x of "),
    ],
)
def test_refusals(
    tmp_path: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text(content)
    assert make("coco", tmp_path / "a.json", tmp_path / "out") == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "set/annotations/instances_val2017.json", [], [])
    assert make("coco", tmp_path / "set", tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "no JSON whose name contains captions, but instances_val2017.json: say what else" in told
