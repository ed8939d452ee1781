"""The commands of docs/data.md, each run on a tiny copy of what it names."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from tests.prep.sources.making import dataset, make, picture, sound
from tests.prep.sources.test_shards import write as write_tar

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")


def recipes() -> dict[str, list[str]]:
    """By name of the output the words of each command."""
    section = PAGE.partition("### Recipes")[2].partition("\n### ")[0]
    lines = [line for line in section.splitlines() if line.startswith("mmfm data make ")]
    commands = [shlex.split(line)[3:] for line in lines]
    return {Path(words[2]).name: words for words in commands}


def table(path: str, rows: list[dict[str, Any]]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def download() -> None:
    """What the recipes name, in the current folder."""
    table("captions.txt", [{"image": "1.jpg", "caption": f"text {n}"} for n in range(5)])
    picture(Path("Images/1.jpg"))
    said = {"sentences": [{"raw": "one"}, {"raw": "two"}], "filename": "1.jpg"}
    images = [{**said, "filepath": f, "split": s} for f, s in (("a", "restval"), ("b", "val"))]
    Path("dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    for number, folder in enumerate("ab"):
        picture(Path(folder, "1.jpg"), number)
    Path("coco/annotations").mkdir(parents=True)
    for number, split in enumerate(("train2017", "val2017")):
        picture(Path("coco", split, f"{number}.jpg"), number)
        images = [{"id": 1, "file_name": f"{number}.jpg"}]
        content = {"images": images, "annotations": [{"image_id": 1, "caption": split}]}
        Path(f"coco/annotations/captions_{split}.json").write_text(json.dumps(content))
    table("labels.csv", [{"id": f"x{n}", "breed": "ab"[n % 2]} for n in range(30)])
    for number in range(30):
        picture(Path(f"train/x{number}.jpg"), number)
    feature = {"_type": "ClassLabel", "names": ["cat", "dog"]}
    told = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    Path("hf/data").mkdir(parents=True)
    for number, split in enumerate(("train", "validation")):
        image = {"bytes": picture(Path("h.png"), number), "path": "h.png"}
        cells = {"image": [image], "caption": [["one", "two"]], "label": [number]}
        file = f"hf/data/{split}-00000-of-00001.parquet"
        parquet.write_table(pyarrow.table(cells).replace_schema_metadata(told), file)
    rows = [
        {"filename": f"{f}.wav", "fold": f, "category": "dog", "src_file": f} for f in range(1, 6)
    ]
    table("ESC-50/meta/esc50.csv", rows)
    rows = [{"slice_file_name": "1.wav", "fold": f, "class": "a", "fsID": f} for f in range(1, 9)]
    table("UrbanSound8K/metadata/UrbanSound8K.csv", rows)
    for number in range(1, 9):
        sound(Path(f"ESC-50/audio/{number}.wav"), number)
        sound(Path(f"UrbanSound8K/audio/fold{number}/1.wav"), number)
    sound(Path("LJSpeech-1.1/wavs/LJ1.wav"))
    Path("LJSpeech-1.1/metadata.csv").write_text('LJ1|"Printing|"Printing\n')
    for number in range(3):
        sound(Path(f"speech_commands/up/s{number}_nohash_0.wav"), number)
    for name, number in (("validation", 1), ("testing", 2)):
        Path(f"speech_commands/{name}_list.txt").write_text(f"up/s{number}_nohash_0.wav\n")
    for number, split in enumerate(("train", "val")):
        picture(Path(f"photos/{split}/cat/{number}.jpg"), number)
    for split in ("train", "test"):
        Path(f"aclImdb/{split}/pos").mkdir(parents=True)
        Path(f"aclImdb/{split}/pos/0_9.txt").write_text(f"Good {split}.")
    about = {"caption": "one", "key": "0", "url": "http://x"}
    write_tar(
        Path("cc12m/0.tar"), {"0.jpg": picture(Path("t.jpg")), "0.txt": b"one", "0.json": about}
    )
    Path("wnut17").mkdir()
    for split in ("train", "dev", "test"):
        Path(f"wnut17/{split}.conll").write_text(f"{split}\tB-x\n")


EXPECTED: dict[str, tuple[list[str] | None, dict[str, int], dict[str, list[str]]]] = {
    # splits (None: by shares), samples, labels
    "flickr8k": (None, {"image+text": 1}, {}),
    "coco": (["train", "val"], {"image+text": 2}, {}),
    "coco-captions": (["train", "val"], {"image+text": 2}, {}),
    "dogs": (None, {"image": 30}, {"breed": ["a", "b"]}),
    "hf": (["train", "val"], {"image+text": 2}, {"label": ["cat", "dog"]}),
    "esc50": (["test", "train"], {"audio": 5}, {"category": ["dog"]}),
    "urban": (None, {"audio": 8}, {"class": ["a"]}),
    "ljspeech": (None, {"audio+text": 1}, {}),
    "commands": (["test", "train", "val"], {"audio": 3}, {"word": ["up"]}),
    "photos": (["train", "val"], {"image": 2}, {"class": ["cat"]}),
    "imdb": (["test", "train"], {"text": 2}, {"sentiment": ["pos"]}),
    "cc12m": (None, {"image+text": 1}, {}),
    "wnut17": (["dev", "test", "train"], {"text": 3}, {"tags": ["B-x"]}),
}


def test_every_recipe_is_tried() -> None:
    assert list(recipes()) == list(EXPECTED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("downloads")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        download()
    return folder


@pytest.mark.parametrize("name", list(EXPECTED))
def test_recipe(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert make(*recipes()[name]) == 0
    manifest, _ = dataset(Path("data", name))
    splits, totals, labels = EXPECTED[name]
    assert (manifest["totals"], manifest["labels"]) == (totals, labels)
    assert manifest["notes"]["left_out"] == {}
    assert splits is None or manifest["splits"] == splits


def test_a_source_of_your_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"^```python\n(# my_package/voc.*?)^```$", PAGE, re.M | re.S)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package/voc.py").write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("VOC2012/Annotations").mkdir(parents=True)
    for name, things in (("a", "<object><name>dog</name></object>"), ("b", "<object>"), ("c", "")):
        Path(f"VOC2012/Annotations/{name}.xml").write_text(f"<annotation>{things}</annotation>")
    picture(Path("VOC2012/JPEGImages/a.jpg"))
    words = shlex.split(block.splitlines()[0].partition("mmfm data make ")[2])
    assert make(*words) == 0
    manifest, found = dataset(Path("data/voc"))
    assert found["a"]["texts"] == {"en": ["a photo of dog"]}
    assert found["a"]["labels"] == {"thing": "dog"}
    assert {r: e["first"] for r, e in manifest["notes"]["left_out"].items()} == {
        "XML is damaged": ["b.xml"], "file is missing": ["c.xml"],
    }  # fmt: skip
