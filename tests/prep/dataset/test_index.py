"""Plain tars get indexes and a manifest, which training then reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmfm.data.index import index_path
from mmfm.data.manifest import Manifest
from mmfm_prep.cli import main
from tests.data.make_shards import files_of
from tests.prep.dataset.test_verify import tar_of


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    for number, name in enumerate(("train-0", "train-1", "val-0")):
        samples = {f"{i:03d}": files_of(i) for i in range(3 * number, 3 * number + 3)}
        tar_of(tmp_path / f"{name}.tar", samples)
    return tmp_path


def test_an_index_is_made_once(tars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", str(tars), "--workers=2"]) == 0
    assert "3 tars, 3 indexed" in capsys.readouterr().err
    assert all(index_path(tar).is_file() for tar in tars.glob("*.tar"))
    assert not (tars / "manifest.json").exists()
    tar_of(tars / "val-0.tar", {"000": files_of(50)})
    assert main(["index", str(tars)]) == 0
    assert "3 tars, 1 indexed" in capsys.readouterr().err
    assert len(Manifest.open(tars)) == 7


def test_a_manifest_has_splits_and_labels(tars: Path) -> None:
    splits = ["--split", "train=train-*", "--split", "val=val-*"]
    assert main(["index", str(tars), "--manifest", "--licence=CC0", *splits]) == 0
    opened = Manifest.open(tars, splits=["val"])
    assert len(opened) == 3
    assert opened.label_names == {"colour": ["blue", "red"]}
    about = json.loads((tars / "manifest.json").read_text())
    assert about["held_out"] == ["val"]
    assert about["licence"] == "CC0"
    assert about["totals"] == {"audio+image+text": 9}
    assert main(["verify", str(tars)]) == 0
    assert main(["index", str(tars), "--manifest"]) == 0  # its own may be replaced
    assert Manifest.open(tars).splits == ["train"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--manifest", "--split", "train=train-*"], "val-0.tar is in 0 splits"),
        (["--manifest", "--split", "a=*", "--split", "b=val*"], "is in 2 splits (a, b)"),
        (["--split", "a=*"], "add --manifest"),
        (["--manifest", "--split", "a"], "NAME=PATTERN"),
    ],
)
def test_refusals(
    tars: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["index", str(tars), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_manifest_of_make_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    assert main(["make", "synthetic", str(out), "train_samples=20", "val_samples=10"]) == 0
    assert main(["index", str(out), "--manifest"]) == 2
    assert "not made by mmfm data index: it stays" in capsys.readouterr().err
    assert main(["index", str(tmp_path)]) == 2
    assert "holds no .tar" in capsys.readouterr().err


def test_a_damaged_tar_is_named(tars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tars / "val-0.tar").write_text("no tar")
    assert main(["index", str(tars)]) == 2
    assert "val-0.tar is not an uncompressed tar" in capsys.readouterr().err


def test_a_modality_that_mmfm_does_not_know(tmp_path: Path) -> None:
    tar_of(tmp_path / "a.tar", {"000": {**files_of(0), "gif": b"1"}, "001": files_of(1)})
    options = ["--manifest", "--modality", "video=gif,mp4"]
    assert main(["index", str(tmp_path), *options]) == 0
    about = json.loads((tmp_path / "manifest.json").read_text())
    assert about["totals"] == {"audio+image+text": 1, "audio+image+text+video": 1}
    assert about["endings"] == {"video": ["gif", "mp4"]}
    assert main(["verify", str(tmp_path)]) == 0
    assert main(["index", str(tmp_path), "--modality", "video"]) == 2
