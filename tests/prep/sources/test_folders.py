"""Folders of pictures and sounds as people have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prep.sources.making import dataset, make, picture, reasons, sound


def test_speech_commands(tmp_path: Path) -> None:
    """A class a folder, the speaker in the name, splits in lists."""
    names = ["up/ab_nohash_0.wav", "up/cd_nohash_0.WAV", "down/ab_nohash_1.wav", "down/noise.wav"]
    for number, name in enumerate(names):
        sound(tmp_path / "set" / name, number)
    (tmp_path / "set/testing_list.txt").write_text("up/cd_nohash_0.WAV\n")
    (tmp_path / "set/validation_list.txt").write_text("./down/noise\n\n")
    words = ["lists={test: testing_list.txt, val: validation_list.txt}"]
    words += [r"group=([^/]+)_nohash_"]
    assert make("audio_folder", tmp_path / "set", tmp_path / "out", *words) == 0
    manifest, found = dataset(tmp_path / "out")
    assert {name: (one["split"], one["group"]) for name, one in found.items()} == {
        names[0]: ("train", "ab"), names[1]: ("test", "cd"), names[2]: ("train", "ab"),
        names[3]: ("val", names[3]),
    }  # fmt: skip
    assert manifest["labels"] == {"class": ["down", "up"]}
    assert reasons(manifest) == {}


def test_lists_that_name_train_name_all(tmp_path: Path) -> None:
    """As Food-101 has them, without endings."""
    for number in range(3):
        picture(tmp_path / f"set/images/pie/{number}.jpg", number)
    (tmp_path / "set/train.txt").write_text("images/pie/0\n")
    (tmp_path / "set/test.txt").write_text("images/pie/1\n")
    words = ["lists={train: train.txt, test: test.txt}", "class_folder=1"]
    assert make("image_folder", tmp_path / "set", tmp_path / "out", *words) == 0
    manifest, found = dataset(tmp_path / "out")
    assert {one["split"] for one in found.values()} == {"train", "test"}
    assert {one["labels"]["class"] for one in found.values()} == {"pie"}
    assert reasons(manifest) == {"is in none of the lists": ["images/pie/2.jpg"]}


def test_folders_that_look_like_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(("seg_train/x/sea/a.png", "seg_test/x/sea/b.png")):
        picture(tmp_path / "set" / name, number)
    assert make("image_folder", tmp_path / "set", tmp_path / "one") == 0
    told = capsys.readouterr().err
    assert "folders are named test, train: split_folders=true makes these the splits" in told
    assert make("image_folder", tmp_path / "set", tmp_path / "two", "split_folders=true") == 0
    told = capsys.readouterr().err
    assert "folders are named" not in told
    assert "every class is 'x': class_folder=-1 takes the folder of each file" in told
    words = ["split_folders=true", "class_folder=-1"]
    assert make("image_folder", tmp_path / "set", tmp_path / "three", *words) == 0
    _, found = dataset(tmp_path / "three")
    assert {(one["split"], one["labels"]["class"]) for one in found.values()} == {
        ("train", "sea"), ("test", "sea"),
    }  # fmt: skip


def test_groups_that_some_names_lack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(("a1_x.png", "a1_y.png", "z.png")):
        picture(tmp_path / "set" / name, number)
    words = ["image_folder", tmp_path / "set", tmp_path / "out"]
    assert make(*words, r"group=(\w+)_") == 0
    assert "group: not found in 1 paths" in capsys.readouterr().err
    _, found = dataset(tmp_path / "out")
    assert [found[n]["group"] for n in ("a1_x.png", "a1_y.png", "z.png")] == ["a1", "a1", "z.png"]


def test_texts(tmp_path: Path) -> None:
    """As the reviews of aclImdb are, and messages of newsgroups, which have no endings."""
    files = {
        "train/pos/0_9.txt": b"Good.\n",
        "test/neg/1_2.txt": b"Bad.",
        "test/neg/17": b"caf\xe9",
    }
    for name, content in files.items():
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    words = ["text_folder", tmp_path / "set", tmp_path / "out", "split_folders=true"]
    assert make(*words) == 0
    manifest, found = dataset(tmp_path / "out")
    assert {one["texts"]["en"][0]: (one["split"], one["labels"]) for one in found.values()} == {
        "Good.": ("train", {"class": "pos"}), "Bad.": ("test", {"class": "neg"}),
    }  # fmt: skip
    assert reasons(manifest) == {"its text is not UTF-8": ["test/neg/17"]}
    assert make(*words, "encoding=latin-1", "--force") == 0
    assert dataset(tmp_path / "out")[1]["test/neg/17"]["texts"] == {"en": ["café"]}


def test_broken_sounds_have_one_reason(tmp_path: Path) -> None:
    sound(tmp_path / "set/a.wav")
    for name in ("b.WAV", "c.oga"):
        (tmp_path / "set" / name).write_bytes(b"no")
    assert make("audio_folder", tmp_path / "set", tmp_path / "out") == 0
    manifest, _ = dataset(tmp_path / "out")
    assert reasons(manifest) == {"not a readable sound": ["b.WAV", "c.oga"]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["group=(b"], "is no regular expression"),
        (["group=b"], "put what names the group in (…)"),
        (["group=(q)"], "is found in no path of"),
        (["split_folders=true", "lists={val: a.txt}"], "split_folders and lists: name one of them"),
        (["encoding=utf-9"], "Python knows none of that name"),
        (["lists={val: gone.txt}"], "lists: there is no"),
        (["lists={val: a.txt, test: b.txt}"], "lists: a.png is in val and in test"),
    ],
)
def test_refusals(
    tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "set/a.png")
    for name in ("a.txt", "b.txt"):
        (tmp_path / "set" / name).write_text("a.png\n")
    assert make("image_folder", tmp_path / "set", tmp_path / "out", *words) == 2
    assert message in capsys.readouterr().err


def test_a_file_is_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "a.png")
    assert make("image_folder", tmp_path / "a.png", tmp_path / "out") == 2
    assert "a.png is no folder" in capsys.readouterr().err
