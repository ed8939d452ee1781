"""Verify finds what is damaged, missing or there twice, and nothing else."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from mmfm.data.index import index_path
from mmfm_prep.cli import main
from tests.data.make_shards import files_of, png, sound


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long paths aren't folded into what the tests look for."""
    monkeypatch.setattr("mmfm_prep.progress._WIDTH", 1_000)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("verify") / "set"
    assert main(["make", "synthetic", str(out), "train_samples=60", "val_samples=30"]) == 0
    return out


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "set"))


def tar_of(path: Path, samples: dict[str, dict[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for key, files in samples.items():
            for ending, content in files.items():
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def verified(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["verify", str(folder), *words])
    return code, " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("words", [[], ["--fast"], ["--workers=2"]])
def test_a_whole_set_has_no_problem(
    words: list[str],
    whole: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if words == ["--workers=2"]:  # what is this small isn't worth other processes
        monkeypatch.setattr("mmfm_prep.dataset.reading._SMALL", 0)
    code, said = verified(whole, capsys, *words)
    assert code == 0
    assert "90 samples in" in said
    assert "no problem" in said


def test_what_the_shards_lack(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone, cut, other, *_ = sorted(dataset.glob("*.tar"))
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:3000])
    changed = bytearray(other.read_bytes())
    changed[600] ^= 1
    other.write_bytes(changed)
    code, said = verified(dataset, capsys, "--fast")
    assert code == 2
    assert "shard is missing" in said
    assert "is truncated" in said
    assert "shard has another size or sha256 than the manifest says │ 2" in said


def test_what_an_index_lacks(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other, *_ = sorted(dataset.glob("*.tar"))
    index_path(one).write_text("nothing")
    shutil.copy(index_path(sorted(dataset.glob("*.tar"))[2]), index_path(other))
    code, said = verified(dataset, capsys, "--fast")
    assert code == 2
    assert "index is broken: mmfm data index makes it anew" in said
    assert "index is of another tar: mmfm data index makes it anew" in said


def test_what_can_not_be_decoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = {"json": json.dumps({"id": "e", "texts": ["half a pair \ud800"]}).encode()}
    samples = {
        "a": files_of(0),
        "b": {"png": png(1)[:-20]},
        "c": {"flac": sound(1)[:50]},
        "d": {"txt": b"\xff"},
        "e": text,
        "f": {"png": b""},
        "g": {"json": b"[1]", "png": png(2)},
        "h": {"doc": b"x"},
    }
    tar_of(tmp_path / "a.tar", samples)
    code, said = verified(tmp_path, capsys)
    assert code == 2
    for what, times in (
        ("image unreadable", 1),
        ("audio unreadable", 1),
        ("text not in UTF-8", 2),
        ("empty image file", 1),
        ("metadata is no JSON object", 1),
        ("sample has no modality", 1),
    ):
        assert f"{what} │ {times} │ a.tar/" in said, what
    assert "8 samples in 1 shards decoded, 7 problems" in said
    code, said = verified(tmp_path, capsys, "--fast")
    assert "8 samples in 1 shards listed, 2 problems" in said


def test_what_is_there_twice_or_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def about(name: str, **more: object) -> dict[str, bytes]:
        return {"json": json.dumps({"id": name, "texts": ["a"], **more}).encode()}

    tar_of(tmp_path / "s-000.tar", {"001": about("one"), "002": about("two"), "005": about("five")})
    tar_of(tmp_path / "s-003.tar", {"001": about("other"), "006": about("two", history=["x"])})
    code, said = verified(tmp_path, capsys)
    assert code == 2
    assert "id is there more than once │ 1 │ two" in said
    assert "key is there more than once in its split │ 1 │ all/001" in said
    assert "history names no sample │ 1 │ x" in said
    assert "2 numbers are missing among the keys, first between 2-5" in said
    assert "2 numbers are missing among the shards, first between 0-3" in said
    assert "3 problems" in said


@pytest.mark.parametrize("what", ["nothing", "empty", "no manifest"])
def test_refuses_what_is_no_dataset(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    if what != "nothing":
        folder.mkdir()
    if what == "no manifest":
        (folder / "manifest.json").write_text("[]")
    assert main(["verify", str(folder)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("words", [["verify"], ["inspect"], ["stats"], ["inspect", "--html"]])
def test_whatever_names_and_texts_hold_is_shown(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about = {
        "texts": {"[/e]": ["\ud800 :dog:"]},
        "labels": {"[/l]": "[b]\ud800"},
        "history": ["[/h]"],
    }
    content = {"json": json.dumps(about).encode(), "x[/y]": b""}
    tar_of(tmp_path / "a.tar", {"[/k]": content, "caf\udce9": {"json": b"["}})
    if words[-1] == "--html":
        words = [*words, str(tmp_path / "page.html")]
    assert main([words[0], str(tmp_path), *words[1:]]) == (2 if words == ["verify"] else 0)
    shown = capsys.readouterr().out
    assert ("[/h]" in shown) is (words == ["verify"])
    if words[0] == "inspect":
        assert "[/e]" in shown
        assert "[b]\\ud800" in shown


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shards": []}, "lists no shards"),
        ({"format": 9}, "format 9"),
        ({"splits": None}, "can't be read"),
        ({"name": "../set/x.tar"}, "leads out of the manifest's folder"),
    ],
)
def test_a_manifest_that_training_refuses(
    change: dict, said: str, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = dataset / "manifest.json"
    manifest = json.loads(file.read_text())
    if "name" in change:
        manifest["shards"][0] |= change
    else:
        manifest |= change
    file.write_text(json.dumps(manifest))
    assert main(["verify", str(dataset)]) == 2
    assert said in capsys.readouterr().err


def test_an_empty_shard_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tar_of(tmp_path / "0.tar", {"a": files_of(0)})
    tar_of(tmp_path / "1.tar", {})
    code, said = verified(tmp_path, capsys)
    assert code == 2
    assert "shard is empty │ 1 │ 1.tar" in said
