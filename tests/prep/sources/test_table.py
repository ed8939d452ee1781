"""Tables as people have them, made datasets with one command, or refused with one that works."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tests.prep.sources.making import dataset, make, picture, reasons, sound


def test_flickr8k(tmp_path: Path) -> None:
    """Five captions a picture, in rows of their own; here three, and not adjacent."""
    for name in ("a", "b", "c"):
        picture(tmp_path / f"Images/{name}.jpg", ord(name) % 7)
    lines = ["a.jpg,A dog", "b.jpg,A cat", '"a.jpg","A dog, running"', "c.jpg,", "a.jpg,A dog"]
    (tmp_path / "captions.txt").write_text("image,caption\n" + "\n".join(lines) + "\n")
    words = ["format=csv", "image=image", f"root={tmp_path}/Images", "texts.en=[caption]"]
    assert make("table", tmp_path / "captions.txt", tmp_path / "out", *words, "collect=true") == 0
    manifest, found = dataset(tmp_path / "out")
    assert {name: one.get("texts") for name, one in found.items()} == {
        "a.jpg": {"en": ["A dog", "A dog, running"]}, "b.jpg": {"en": ["A cat"]}, "c.jpg": None,
    }  # fmt: skip
    assert {one["key"] for one in found.values()} == {"00000000", "00000001", "00000003"}
    assert reasons(manifest) == {}


def test_rows_of_one_sample_must_agree(tmp_path: Path) -> None:
    rows = ["1,a,x,train", "2,b,y,train", "1,c,x,train", "2,d,y,val", "3,e,y,train", "3,f,z,train"]
    rows += ["2,g,y,train", ",h,y,train"]
    (tmp_path / "a.csv").write_text("n,t,l,s\n" + "\n".join(rows) + "\n")
    words = ["id=n", "texts.en=[t]", "labels=[l]", "split=s", "collect=true"]
    assert make("table", tmp_path / "a.csv", tmp_path / "out", *words) == 0
    manifest, found = dataset(tmp_path / "out")
    assert {name: one["texts"]["en"] for name, one in found.items()} == {"1": ["a", "c"]}
    assert reasons(manifest) == {
        "id is empty": ["a.csv:9"],
        "rows of one id disagree about split": ["a.csv:5"],
        "rows of one id disagree about labels": ["a.csv:7"],
    }


def test_an_id_that_is_there_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("n,t\n1,a\n1,b\n1,c\n")
    assert make("table", tmp_path / "a.csv", tmp_path / "out", "id=n", "texts.en=[t]") == 0
    told = capsys.readouterr().err
    assert told.count("a.csv:3: id '1' is there already; collect=true makes one sample") == 1
    assert "a.csv:4: id" not in told


def test_split_by_time(tmp_path: Path) -> None:
    days = ["2020-01-01", "2024-06-01T12:00:00Z", "", "1700000000000", "1500000000", "soon"]
    rows = [{"t": f"text {n}", "at": day} for n, day in enumerate(days)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["texts.en=[t]", "time=at", "split_by=time", "shares={train: 0.5, val: 0.5}"]
    assert make("table", tmp_path / "a.jsonl", tmp_path / "out", *words) == 0
    manifest, found = dataset(tmp_path / "out")
    assert {name: one["split"] for name, one in found.items()} == {
        "a/4": "train", "a/0": "train", "a/3": "val", "a/1": "val",
    }  # fmt: skip
    assert reasons(manifest) == {
        "time is missing": ["a.jsonl:3"],
        "time is neither a number nor an ISO date: time_format says what it is": ["a.jsonl:6"],
    }


def test_paths_of_several_columns(tmp_path: Path) -> None:
    """As UrbanSound8K has them, with folds that become splits."""
    for fold in (1, 2):
        sound(tmp_path / f"audio/fold{fold}/x.wav", fold)
    (tmp_path / "metadata").mkdir()
    rows = "file,fold,class\nx.wav,1,dog\nx.wav,2,siren\n,2,siren\n"
    (tmp_path / "metadata/clips.csv").write_text(rows)
    words = ["audio=fold{fold}/{file}", f"root={tmp_path}/audio", "labels=[class]", "split=fold"]
    words += ["splits={1: train, 2: test}"]
    assert make("table", tmp_path / "metadata/clips.csv", tmp_path / "out", *words) == 0
    manifest, found = dataset(tmp_path / "out")
    assert {(one["split"], one["labels"]["class"]) for one in found.values()} == {
        ("train", "dog"), ("test", "siren"),
    }  # fmt: skip
    assert reasons(manifest) == {"has no picture, sound or text": ["clips.csv:4"]}
    assert "'audio=fold{fold}/{file}'" in manifest["command"]


def test_texts_and_ids_of_several_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("maker,model,n\nFord,T,1\nFord,,2\nVW,T,3\n")
    words = ['texts.en=["{maker} {model}", maker]', 'id="{maker}-{n}"', 'group="{maker} {model}"']
    assert make("table", tmp_path / "a.csv", tmp_path / "out", *words) == 0
    _, found = dataset(tmp_path / "out")
    assert {name: (one["texts"]["en"], one["group"]) for name, one in found.items()} == {
        "Ford-1": (["Ford T", "Ford"], "Ford T"),
        "Ford-2": (["Ford"], "Ford-2"),
        "VW-3": (["VW T", "VW"], "VW T"),
    }


def test_a_list_with_pipes_and_quotes(tmp_path: Path) -> None:
    """As LJSpeech's metadata.csv is."""
    sound(tmp_path / "wavs/LJ1.wav")
    (tmp_path / "metadata.csv").write_text('LJ1|"Printing, he said|"Printing," he said\n')
    words = ["delimiter=pipe", "quotes=false", "columns=[id, raw, text]", "audio=wavs/{id}.wav"]
    words += ["texts.en=[text]", "id=id"]
    assert make("table", tmp_path / "metadata.csv", tmp_path / "out", *words) == 0
    _, found = dataset(tmp_path / "out")
    assert found["LJ1"]["texts"] == {"en": ['"Printing," he said']}
    assert list(found["LJ1"]["files"]) == ["wav"]


def test_hugging_face_parquet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files by split, pictures and sounds in cells, captions in lists, classes as numbers."""
    data = picture(tmp_path / "a.png")
    feature = {"_type": "ClassLabel", "names": ["cat", "dog"]}
    told = json.dumps({"info": {"features": {"label": feature}}})
    (tmp_path / "data").mkdir()
    for number, split in enumerate(("train", "validation")):
        cell = {"bytes": data, "path": None}
        rows = {"image": [cell], "said": [[{"raw": "one"}, {"raw": "two"}]], "label": [number]}
        table = pyarrow.table(rows).replace_schema_metadata({"huggingface": told})
        parquet.write_table(table, tmp_path / f"data/{split}-00000-of-00001.parquet")
    words = ["image=image", "texts.en=[said.raw]", "labels=[label]"]
    assert make("table", tmp_path / "data", tmp_path / "out", *words) == 0
    assert "named train, val: split_files=true makes" in capsys.readouterr().err
    assert make("table", tmp_path / "data", tmp_path / "two", *words, "split_files=true") == 0
    _, found = dataset(tmp_path / "two")
    assert {(o["split"], o["labels"]["label"]) for o in found.values()} == {
        ("train", "cat"), ("val", "dog"),
    }  # fmt: skip
    assert all(o["texts"] == {"en": ["one", "two"]} for o in found.values())
    assert all(o["files"] == {"png": data} for o in found.values())


def test_karpathys_json(tmp_path: Path) -> None:
    picture(tmp_path / "val2014/a.jpg")
    said = [{"raw": "A cat.", "tokens": ["a", "cat"]}, {"raw": "Cat."}]
    image = {"filepath": "val2014", "filename": "a.jpg", "split": "restval", "sentences": said}
    (tmp_path / "coco.json").write_text(json.dumps({"images": [image], "dataset": "coco"}))
    words = ["image=./{filepath}/{filename}", "texts.en=[sentences.raw]", "split=split"]
    words += ["splits={restval: train}"]
    assert (
        make("table", tmp_path / "coco.json", tmp_path / "out", *words, "splits={restval: train}")
        == 0
    )
    _, found = dataset(tmp_path / "out")
    assert found["coco/0"]["split"] == "train"
    assert found["coco/0"]["texts"] == {"en": ["A cat.", "Cat."]}


def test_a_wrong_root_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        picture(tmp_path / f"set/photos/big/{number}.png", number)
    rows = "".join(f"{n}.png,text\n" for n in range(101))
    (tmp_path / "set/a.csv").write_text("p,t\n" + rows)
    words = ["table", tmp_path / "set/a.csv", tmp_path / "out", "image=p", "texts.en=[t]"]
    assert make(*words) == 2
    told = capsys.readouterr().err
    assert (
        f"p: none of the first 100 files is there, the first would be {tmp_path}/set/0.png" in told
    )
    assert "p: none of the 101 files is there" in told
    assert f"{tmp_path}/set/photos/big/0.png is there: root={tmp_path}/set/photos/big" in told
    assert make(*words, f"root={tmp_path}/set/photos/big") == 0
    assert "none of" not in capsys.readouterr().err
    manifest, found = dataset(tmp_path / "out")
    assert len(found) == 2
    assert manifest["notes"]["left_out"]["file is missing"]["samples"] == 99
    assert make("table", tmp_path / "set/a.csv", tmp_path / "two", "image=p", "root=/nowhere") == 2
    assert "say where they lie: root=FOLDER" in capsys.readouterr().err


def test_paths_of_another_system(tmp_path: Path) -> None:
    picture(tmp_path / "a/b.png")
    (tmp_path / "t.csv").write_text("p\na\\b.png\n")
    assert make("table", tmp_path / "t.csv", tmp_path / "out", "image=p") == 0


def test_cells_with_several_things(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    rows = [
        {"p": ["a.png"], "l": ["x"]},
        {"p": ["a.png", "a.png"], "l": "x"},
        {"p": "a.png", "l": ["x", "y"]},
        {"p": [], "l": []},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert make("table", tmp_path / "a.jsonl", tmp_path / "out", "image=p", "labels=[l]") == 0
    manifest, found = dataset(tmp_path / "out")
    assert {name: one["labels"] for name, one in found.items()} == {"a/0": {"l": "x"}}
    assert reasons(manifest) == {
        "p names several files": ["a.jsonl:2"],
        "l has several values": ["a.jsonl:3"],
        "has no picture, sound or text": ["a.jsonl:4"],
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["time=a"], "time=COLUMN and split_by=time need each other"),
        (["split_by=time"], "time=COLUMN and split_by=time need each other"),
        (["splits={a: b}"], "splits renames what a column says"),
        (["split=t", "split_files=true"], "split and split_files: name one of them"),
        (["collect=true"], "no path tells which rows belong together"),
        (["split_files=true"], "the file's name tells no split"),
        (["image=p"], "there is no column 'p'"),
        (["delimiter=|"], "for | say delimiter=pipe"),
    ],
)
def test_refusals(
    tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("t\nx\n")
    assert make("table", tmp_path / "a.csv", tmp_path / "out", "texts.en=[t]", *words) == 2
    assert message in capsys.readouterr().err


def test_numbers_and_dates_as_they_are_written_elsewhere(tmp_path: Path) -> None:
    rows = ['a;"1.234,5";31.12.2023', 'b;"3,99";01.01.2024', "c;7;01.01.2024", "d;1;2024-01-01"]
    (tmp_path / "a.csv").write_text("t;n;d\n" + "\n".join(rows) + "\n")
    words = ["table", tmp_path / "a.csv", "texts.de=[t]", "numbers=[n]", "delimiter=';'", "time=d"]
    words += ["split_by=time", "time_format='%d.%m.%Y'", "shares={train: 0.4, val: 0.6}"]
    assert make(*words[:2], tmp_path / "out", *words[2:], "decimal_comma=true") == 0
    manifest, found = dataset(tmp_path / "out")
    assert {
        one["texts"]["de"][0]: (one["numbers"]["n"], one["split"]) for one in found.values()
    } == {
        "a": (1234.5, "train"),
        "b": (3.99, "val"),
        "c": (7, "val"),
    }
    assert reasons(manifest) == {"time is not as time_format = '%d.%m.%Y' has it": ["a.csv:5"]}
    assert make(*words[:2], tmp_path / "other", *words[2:]) == 0
    manifest, _ = dataset(tmp_path / "other")
    assert reasons(manifest)["n is no number: decimal_comma=true?"] == ["a.csv:2", "a.csv:3"]


def test_usual_splits_have_one_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ["Train", "TRAINING", "train", "Validation", "val", "fold1", "testing"]
    lines = "".join(f"text {n},{split}\n" for n, split in enumerate(told))
    (tmp_path / "a.csv").write_text("t,s\n" + lines)
    words = ["table", tmp_path / "a.csv", tmp_path / "out", "texts.en=[t]", "split=s"]
    assert make(*words, "splits={fold1: Test}") == 0
    assert "splits: Test 1, test 1, train 3, val 2\n" in capsys.readouterr().err


def test_what_nobody_trains_on_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("t,s\na,one\nb,two\n")
    words = ["table", tmp_path / "a.csv", tmp_path / "out", "texts.en=[t]"]
    assert make(*words, "split=s") == 0
    assert "no split is called train" in capsys.readouterr().err
    assert make(*words, "shares={train: 0.999, val: 0.001}", "--force") == 0
    told = capsys.readouterr().err
    assert "no split is called train" not in told
    assert "nothing in val: these are too few groups for its share" in told


def test_files_whose_ending_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "7.jpg").write_bytes(b"x")
    (tmp_path / "a.csv").write_text("Id\n7\n8\n")
    assert make("table", tmp_path / "a.csv", tmp_path / "out", "image=Id") == 2
    assert "with its ending .jpg it is: write ./{Id}.jpg in quotes" in capsys.readouterr().err


def test_rows_without_a_group_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("t,g\na,x\nb,\nc,\n")
    assert make("table", tmp_path / "a.csv", tmp_path / "out", "texts.en=[t]", "group=g") == 0
    assert "group is empty in 2 rows, each a group of its own" in capsys.readouterr().err


def test_a_spreadsheet_by_another_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_bytes(b"PK\3\4\xff\xff")
    assert make("table", tmp_path / "a.csv", tmp_path / "out", "texts.en=[t]") == 2
    assert "is a spreadsheet or a zip archive, whatever it is called" in capsys.readouterr().err


def test_where_all_is_left_out_nothing_waits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("t,n\na,dear\nb,cheap\n")
    words = ["table", tmp_path / "a.csv", tmp_path / "out", "texts.en=[t]", "numbers=[n]"]
    assert make(*words) == 2
    told = capsys.readouterr().err
    assert "with these options gives no sample: all 2 were left out" in told
    assert "what is done waits" not in told
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_sets_of_labels(tmp_path: Path) -> None:
    rows = [("a", "Drama | Comedy|Drama"), ("b", ""), ("c", "War")]
    (tmp_path / "a.csv").write_text("t,g\n" + "".join(f"{t},{g}\n" for t, g in rows))
    words = ["texts.en=[t]", "label_sets=[g]"]
    assert make("table", tmp_path / "a.csv", tmp_path / "out", *words) == 0
    manifest, found = dataset(tmp_path / "out")
    assert manifest["labels"] == {"g": ["Comedy", "Drama", "War"]}
    assert [one["labels"]["g"] for _, one in sorted(found.items())] == [
        *(["Drama", "Comedy"], [], ["War"]),
    ]
    (tmp_path / "b.jsonl").write_text('{"t": "a", "g": ["x", "y"]}\n')
    assert make("table", tmp_path / "b.jsonl", tmp_path / "lists", *words) == 0
    _, found = dataset(tmp_path / "lists")
    assert found["b/0"]["labels"] == {"g": ["x", "y"]}
    assert make("table", tmp_path / "a.csv", tmp_path / "no", *words, "separator=") == 2
