"""`mmfm data make table`, `image_folder` and `audio_folder` from real files to a dataset."""

from __future__ import annotations

import csv
import json
import os
import tarfile
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from mmfm_prep.cli import main
from tests.prep.making.test_media import TONE, clip, encoded, noise


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Twelve articles: every second one is said, one picture is missing, one is broken."""
    (tmp_path / "pics").mkdir()
    rows = []
    for i in range(12):
        (tmp_path / f"pics/{i}.jpg").write_bytes(encoded(noise(30 + i, 20), "JPEG"))
        (tmp_path / f"pics/{i}.wav").write_bytes(clip(TONE * (i + 1) / 20))
        said = f"pics/{i}.wav" if i % 2 else ""
        row = {"sku": f"s{i}", "photo": f"pics/{i}.jpg", "said": said, "title": f" Cafe\u0301 {i} "}
        rows.append({**row, "kind": "ab"[i % 2], "price": i / 2, "family": f"f{i // 4}"})
    rows[3]["photo"] = "pics/none.jpg"
    (tmp_path / "pics/4.jpg").write_bytes(b"broken")
    with (tmp_path / "shop.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path


COLUMNS = ["image=photo", "audio=said", "texts.en=[title]", "labels=[kind]", "numbers=[price]"]


def make(*words: object) -> int:
    return main(["make", *map(str, words)])


def dataset(folder: Path) -> tuple[dict, dict[str, dict]]:
    """The manifest, and all samples by id: their JSON, split and files."""
    manifest = json.loads((folder / "manifest.json").read_text())
    found: dict[str, dict] = {}
    for shard in manifest["shards"]:
        files: dict[str, dict[str, bytes]] = {}
        with tarfile.open(folder / shard["name"]) as tar:
            for member in tar:
                key, ending = member.name.split(".")
                files.setdefault(key, {})[ending] = tar.extractfile(member).read()
        for key, parts in files.items():
            about = json.loads(parts.pop("json"))
            found[about["id"]] = {**about, "key": key, "split": shard["split"], "files": parts}
    return manifest, found


def test_table(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shop / "out"
    options = [*COLUMNS, "id=sku", "group=family", "shares={train: 0.5, val: 0.5}"]
    assert make("table", shop / "shop.csv", out, *options) == 0
    manifest, found = dataset(out)
    assert set(found) == {f"s{i}" for i in range(12)} - {"s3", "s4"}
    one = found["s5"]
    assert one["texts"] == {"en": ["Café 5"]}  # NFC, stripped
    assert one["labels"] == {"kind": "b"}
    assert one["numbers"] == {"price": 2.5}
    assert one["key"] == "00000005"
    assert one["files"]["jpg"] == (shop / "pics/5.jpg").read_bytes()
    assert set(one["files"]) == {"jpg", "wav"}
    assert set(found["s6"]["files"]) == {"jpg"}
    for family in range(3):
        assert len({f["split"] for f in found.values() if f["group"] == f"f{family}"}) == 1
    assert manifest["notes"]["left_out"] == {
        "file is missing": {"samples": 1, "first": ["shop.csv:5"]},
        "picture is unreadable": {"samples": 1, "first": ["shop.csv:6"]},
    }
    assert "left out: 1 (file is missing), first shop.csv:5" in capsys.readouterr().err
    assert manifest["command"].startswith(f"mmfm data make table {shop / 'shop.csv'} OUT ")


def test_of_rows_that_share_an_id_the_first_stays(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("sku,t\na,one\nb,two\na,three\na,four\n")
    assert make("table", tmp_path / "t.csv", tmp_path / "out", "texts.en=[t]", "id=sku") == 0
    manifest, found = dataset(tmp_path / "out")
    assert {name: sample["texts"] for name, sample in found.items()} == {
        "a": {"en": ["one"]},
        "b": {"en": ["two"]},
    }
    ((reason, left_out),) = manifest["notes"]["left_out"].items()
    assert reason == "id is there already"
    assert left_out == {"samples": 2, "first": ["t.csv:4", "t.csv:5"]}


def test_equal_pictures_are_leaks_whatever_their_files_say(tmp_path: Path) -> None:
    picture = noise(20, 20)
    for split, comment in (("train", b"one"), ("val", b"two")):
        (tmp_path / f"in/{split}/a").mkdir(parents=True)
        data = encoded(picture, "JPEG", quality=95, comment=comment)
        (tmp_path / f"in/{split}/a/1.jpg").write_bytes(data)
    assert make("image_folder", tmp_path / "in", tmp_path / "out", "split_folders=true") == 0
    manifest, _ = dataset(tmp_path / "out")
    assert manifest["leaks"]["val"]["image"] == {"same_group": 0, "other_group": 1, "of": 1}


def test_the_same_input_gives_the_same_bytes(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("table", shop / "shop.csv", shop / "one", *COLUMNS)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    make("table", shop / "shop.csv", shop / "two", *COLUMNS)
    tars = [sorted((shop / name).glob("*.tar")) for name in ("one", "two")]
    assert [p.name for p in tars[0]] == [p.name for p in tars[1]]
    assert [p.read_bytes() for p in tars[0]] == [p.read_bytes() for p in tars[1]]


def test_processing(shop: Path) -> None:
    options = ["media.image_longest=16", "media.image_format=webp", "media.audio_rate=4000"]
    assert make("table", shop / "shop.csv", shop / "out", *COLUMNS, *options) == 0
    manifest, found = dataset(shop / "out")
    assert {tuple(sorted(f["files"])) for f in found.values()} == {("flac", "webp"), ("webp",)}
    for option in options:
        assert f" {option}" in manifest["command"]
    assert "audio_level" not in manifest["command"]


def test_a_column_names_the_splits(tmp_path: Path) -> None:
    lines = [
        {"t": ["a", "b"], "s": "train"},
        {"t": "c", "s": "test"},
        {"t": "d", "s": ""},
        {"t": ""},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert make("table", tmp_path / "a.jsonl", tmp_path / "out", "texts.fr=[t]", "split=s") == 0
    manifest, found = dataset(tmp_path / "out")
    assert {f["split"]: f["texts"]["fr"] for f in found.values()} == {
        "train": ["a", "b"], "test": ["c"],
    }  # fmt: skip
    assert manifest["held_out"] == ["test"]
    assert manifest["notes"]["left_out"]["split is empty"]["samples"] == 2


def test_bytes_in_parquet(tmp_path: Path) -> None:
    picture = encoded(noise(8, 8), "PNG")
    images = [{"bytes": picture, "path": None}, {"bytes": None, "path": "https://x/y.png"}]
    table = pyarrow.table({"image": images, "label": [3, 4]})
    parquet.write_table(table, tmp_path / "a.parquet")
    words = ["image=image", "labels=[label]", "shares={train: 1}"]
    assert make("table", tmp_path / "a.parquet", tmp_path / "out", *words) == 0
    manifest, found = dataset(tmp_path / "out")
    assert found["a/0"]["files"] == {"png": picture}
    assert found["a/0"]["labels"] == {"label": "3"}
    assert list(manifest["notes"]["left_out"]) == ["image is a URL, not a file: fetch them first"]


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("t,n\na,1e3\nb,\nc,dear\nd,nan\n")
    assert make("table", tmp_path / "a.csv", tmp_path / "out", "texts.en=[t]", "numbers=[n]") == 0
    manifest, found = dataset(tmp_path / "out")
    assert {f["texts"]["en"][0]: f["numbers"]["n"] for f in found.values()} == {
        "a": 1000,
        "b": None,
    }
    assert list(manifest["notes"]["left_out"]) == ["n is no number", "n is not finite"]


def test_image_folder(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number, name in enumerate(("train/cat/a.png", "train/dog/b.JPG", "val/cat/c.png", "d.png")):
        path = photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = "JPEG" if name.endswith("JPG") else "PNG"
        path.write_bytes(encoded(noise(9 + number, 9), kind))
    (photos / "train/cat/a.txt").write_text("a cat\n")
    (photos / "train/cat/notes.doc").write_text("x")
    (photos / ".hidden.png").write_text("x")
    assert make("image_folder", photos, tmp_path / "out", "split_folders=true", "label=animal") == 0
    manifest, found = dataset(tmp_path / "out")
    assert {name: (f["split"], f["labels"]) for name, f in found.items()} == {
        "train/cat/a.png": ("train", {"animal": "cat"}),
        "train/dog/b.JPG": ("train", {"animal": "dog"}),
        "val/cat/c.png": ("val", {"animal": "cat"}),
    }
    assert found["train/cat/a.png"]["texts"] == {"en": ["a cat"]}
    reasons = manifest["notes"]["left_out"]
    assert reasons["lies in no split's folder"]["first"] == ["d.png"]
    assert [r["first"] for r in reasons.values()] == [["d.png"], ["train/cat/notes.doc"]]


def test_audio_folder(tmp_path: Path) -> None:
    (tmp_path / "clips/up").mkdir(parents=True)
    (tmp_path / "clips/up/a.ogg").write_bytes(clip(TONE, "OGG"))
    (tmp_path / "clips/up/b.wav").write_bytes(clip(TONE * 0))
    (tmp_path / "clips/up/c.mp3").write_bytes(clip(TONE, "MP3"))
    assert make("audio_folder", tmp_path / "clips", tmp_path / "out") == 0
    manifest, found = dataset(tmp_path / "out")
    assert {name: list(f["files"]) for name, f in found.items()} == {
        "up/a.ogg": ["ogg"], "up/c.mp3": ["flac"],
    }  # fmt: skip
    assert {f["labels"]["class"] for f in found.values()} == {"up"}
    assert manifest["notes"]["left_out"]["sound is silent"]["first"] == ["up/b.wav"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table", "gone.csv", "OUT", "image=a"], "there is no gone.csv"),
        (["table", "OUT", "image=a"], "table.input is required"),
        (["table", "gone.csv", "OUT"], "name a column"),
        (["table", "a", "b", "OUT", "image=a"], "name what is read"),
        (["image_folder", "gone", "OUT", "shares={train: 0}"], "every share must be above 0"),
        (["synthetic", "gone", "OUT"], "synthetic reads no files of yours"),
    ],
)
def test_refusals(
    tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(*[str(tmp_path / "out") if word == "OUT" else word for word in words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_texts_are_filtered_and_augmented(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [
        {"t": ["a brown dog runs", "x"], "u": "mail me: jo@example.org"},
        {"t": ["y"], "u": ""},
        {"t": ["the brown dog sleeps"], "u": "The  BROWN dog sleeps"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["texts.en=[t]", "texts.de=[u]", "filters.text.min_chars=4", "augment.swaps=1"]
    words += ["filters.text.personal=mask", "shares={train: 1}"]
    assert make("table", tmp_path / "a.jsonl", tmp_path / "out", *words) == 0
    manifest, found = dataset(tmp_path / "out")
    assert set(found) == {"a/0", "a/2"}
    one = found["a/0"]
    assert one["texts"]["en"][0] == "a brown dog runs"
    assert sorted(one["texts"]["en"][1].split()) == sorted(["a", "brown", "dog", "runs"])
    assert one["texts"]["de"][0] == "mail me: [e-mail]"
    assert one["augmented"]["en"] == {"1": "swap"}
    assert list(manifest["notes"]["left_out"]) == ["text shorter than 4 characters"]
    counts = manifest["notes"]["texts"]
    assert counts["left out: text shorter than 4 characters"] == 1  # the others went with theirs
    assert counts["masked"] == 1
    assert counts["swap"] == sum(len(m) for f in found.values() for m in f["augmented"].values())
    assert "1 masked" in capsys.readouterr().err
    for option in ("filters.text.min_chars=4", "augment.swaps=1"):
        assert option in manifest["command"]
    assert "cache" not in manifest["command"]


def test_filters_and_duplicates_by_kind(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, picture in (
        ("a", noise(40, 30)), ("b", noise(40, 30)), ("c", noise(8, 8)), ("d", noise(60, 10)),
    ):  # fmt: skip
        (photos / f"{name}.png").write_bytes(encoded(picture, "PNG"))
    words = ["filters.image.min_side=9", "filters.image.max_aspect=5", "shares={train: 1}"]
    words += ["filters.duplicates=[image]", "filters.near.image=2"]
    assert make("image_folder", photos, tmp_path / "out", *words) == 0
    manifest, found = dataset(tmp_path / "out")
    assert set(found) == {"a.png"}
    assert {r: e["first"] for r, e in manifest["notes"]["left_out"].items()} == {
        "picture is there already": ["b.png"],
        "picture smaller than 9 pixels": ["c.png"],
        "picture longer than 5 times its other side": ["d.png"],
    }


def test_leaks_are_told_and_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("t,s\none,train\nTwo,train\ntwo,val\n")
    words = ["table", tmp_path / "a.csv", tmp_path / "out", "texts.en=[t]", "split=s"]
    assert make(*words) == 0
    assert "--drop-leaks leaves" in capsys.readouterr().err
    assert make(*words, "--drop-leaks") == 2  # other options
    assert make(*words, "--drop-leaks", "--force") == 0
    assert "--drop-leaks leaves" not in capsys.readouterr().err
    manifest, found = dataset(tmp_path / "out")
    assert {f["texts"]["en"][0]: f["split"] for f in found.values()} == {
        "one": "train", "two": "val",
    }  # fmt: skip
    assert manifest["source"]["drop_leaks"] is True
    assert manifest["leaks"]["val"]["text"] == {"same_group": 0, "other_group": 0, "of": 1}
    assert list(manifest["notes"]["left_out"]) == ["text is also held out"]


def test_a_split_by_time_needs_times(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("t\none\ntwo\n")
    words = ["table", tmp_path / "a.csv", tmp_path / "out", "texts.en=[t]", "split_by=time"]
    assert make(*words) == 2  # no sample is left


def test_names_in_another_encoding_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in (b"caf\xe9.png", "caf\u00e9.png".encode(), b"two\nlines 100%d.png"):
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path / "in"), name))).write_bytes(
            encoded(noise(8, 8), "PNG")
        )
    assert make("image_folder", tmp_path / "in", tmp_path / "out") == 0
    manifest, found = dataset(tmp_path / "out")
    assert set(found) == {"caf\u00e9.png", "two\nlines 100%d.png"}
    (reason,) = manifest["notes"]["left_out"]
    assert "not valid Unicode" in reason


def test_half_characters_in_texts_and_labels_are_left_out(tmp_path: Path) -> None:
    rows = [{"t": "a", "k": "x"}, {"t": "\ud800", "k": "x"}, {"t": "c", "k": "\udfff"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert make("table", tmp_path / "a.jsonl", tmp_path / "out", "texts.en=[t]", "labels=[k]") == 0
    manifest, found = dataset(tmp_path / "out")
    assert set(found) == {"a/0"}
    assert [entry["samples"] for entry in manifest["notes"]["left_out"].values()] == [2]


def test_links_are_followed_and_dangling_ones_counted(tmp_path: Path) -> None:
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    (photos / "cat").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "a.png").write_bytes(encoded(noise(8, 8), "PNG"))
    (photos / "dog").symlink_to(elsewhere)
    (photos / "cat/b.png").symlink_to(elsewhere / "a.png")
    (photos / "cat/gone.png").symlink_to(tmp_path / "gone.png")
    (photos / "cat/again").symlink_to(photos)
    assert make("image_folder", photos, tmp_path / "out") == 0
    manifest, found = dataset(tmp_path / "out")
    assert set(found) == {"dog/a.png", "cat/b.png"}
    assert manifest["notes"]["left_out"] == {
        "file is missing": {"samples": 1, "first": ["cat/gone.png"]}
    }


def test_a_split_can_not_lead_out_of_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("t,s\na,train\nb,../../x\nc,val[/x]\n")
    words = ["table", tmp_path / "a.csv", tmp_path / "out", "texts.en=[t]"]
    assert make(*words, "split=s") == 0
    manifest, found = dataset(tmp_path / "out")
    assert [f["split"] for f in found.values()] == ["train"]
    assert [entry["samples"] for entry in manifest["notes"]["left_out"].values()] == [2]
    assert make(*words, "--force", "shares={a/b: 1}") == 2
    assert "a split's name" in capsys.readouterr().err


def test_what_is_read_may_not_hold_what_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.png").write_bytes(encoded(noise(8, 8), "PNG"))
    assert make("image_folder", tmp_path, tmp_path / "out") == 2
    assert "which is read: name a folder elsewhere" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]
