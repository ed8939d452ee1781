"""The command: exit codes, one line for each error, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mmfm_prep.cli import main
from mmfm_prep.sample import Sample
from mmfm_prep.sources.base import Source

SMALL = ["train_samples=20", "val_samples=10"]


@dataclass(kw_only=True)
class Config(Source):
    """A source outside the package: this test module."""

    text: str
    samples_made: int = 4
    tags: list[str] = field(default_factory=lambda: ["a"])
    fails_at: int = -1

    def samples(self) -> Iterator[Sample]:
        for i in range(self.samples_made):
            if i == self.fails_at:
                raise RuntimeError("in the middle")
            yield Sample(
                key=f"{i}", id=f"{i}", group=f"{i}", split="train", texts={"en": [self.text]}
            )


def test_make_again_skips_and_force_makes_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    assert main(["make", "synthetic", str(out), *SMALL]) == 0
    before = (out / "manifest.json").stat().st_mtime_ns
    assert main(["make", "synthetic", str(out), *SMALL]) == 0
    assert "is already there: 30 samples" in capsys.readouterr().err
    assert (out / "manifest.json").stat().st_mtime_ns == before
    assert main(["make", "synthetic", str(out), "--force", *SMALL]) == 0
    assert (out / "manifest.json").stat().st_mtime_ns > before
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["command"] == "mmfm data make synthetic OUT train_samples=20 val_samples=10"
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_another_dataset_in_the_way_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    assert main(["make", "synthetic", str(out), *SMALL]) == 0
    assert main(["make", "synthetic", str(out), *SMALL, "seed=5"]) == 2
    assert "seed is 0 there and 5 was asked for; --force" in capsys.readouterr().err
    shard = next(out.glob("*.tar"))
    shard.unlink()
    assert main(["make", "synthetic", str(out), *SMALL]) == 2
    assert f"its shard {shard.name} is missing" in capsys.readouterr().err


def test_a_folder_that_is_no_dataset_is_never_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("precious")
    assert main(["make", "synthetic", str(tmp_path), "--force"]) == 2
    assert "isn't a dataset made by mmfm" in capsys.readouterr().err
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["synthetc", "OUT"], "did you mean 'synthetic'?"),
        (["synthetic", "OUT", "image_sise=32"], "did you mean 'image_size'?"),
        (["synthetic", "OUT", "image_size=big"], "synthetic.image_size = 'big'"),
        (["synthetic", "OUT", "image_size"], "must look like key.sub=value"),
        (["synthetic", "OUT", "type=emoji"], "is the argument SOURCE"),
        (["json.decoder", "OUT"], "has no dataclass named Config"),
        (["mmfm_prep.fetch_it", "OUT"], "no module 'mmfm_prep.fetch_it'"),
        (["emoji", "OUT", "styles=[notto]"], "'notto' must be one of noto"),
        (["emoji", "OUT", "concepts=100"], "must be at least words = 130"),
        (["emoji", "OUT", "held_out_voices=[en+x]"], "held_out_voices: 'en+x'"),
        (["stamps", "OUT", "speech=[fi]"], "fi must be among the languages"),
    ],
)
def test_errors_are_one_line_and_code_2(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["make", *(str(tmp_path / "out") if o == "OUT" else o for o in options)]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("mmfm data: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_usage_errors_are_code_2_and_help_is_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["make", "synthetic"]) == 2
    assert main(["inspect", "here", "--colour"]) == 2
    assert "unrecognized arguments: --colour" in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "mmfm data make" in capsys.readouterr().out


def test_a_source_outside_the_package(tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert main(["make", __name__, str(out), "samples_made=7", "tags=[a, b]", "text=hi"]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["totals"] == {"text": 7}
    assert manifest["source"]["type"] == __name__
    options = "text=hi samples_made=7 'tags=[a, b]'"
    assert manifest["command"] == f"mmfm data make {__name__} OUT {options}"


def test_a_required_option_that_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["make", __name__, str(tmp_path / "set")]) == 2
    assert f"{__name__}.text is required" in capsys.readouterr().err


def test_a_source_that_fails_midway_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="in the middle"):
        main(["make", __name__, str(tmp_path / "set"), "fails_at=2", "text=hi"])
    assert list(tmp_path.iterdir()) == []


def test_a_kill_midway_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mmfm_prep.cli", "make", "synthetic", str(tmp_path / "set")]
    with subprocess.Popen([*command, "train_samples=1000000"], stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".set.*/*.tar")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(tmp_path.glob(".set.*/*.tar"))
        assert not (tmp_path / "set").exists()
        process.terminate()
        assert process.wait(30) == 130
    assert list(tmp_path.iterdir()) == []


def test_a_source_without_samples_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["make", __name__, str(tmp_path / "set"), "samples_made=0", "text=hi"]) == 2
    assert "gives no sample" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_inspect_prints_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    assert main(["make", "synthetic", str(out), "train_samples=40", "val_samples=20"]) == 0
    capsys.readouterr()
    assert main(["inspect", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "licence: CC0-1.0" in shown
    for words in (
        ("train", "audio+image+text", "22"),
        ("without text", "9"),
        ("shape", "6"),
        ("val", "20", "0 / 0"),
        ("No leak.",),
    ):
        assert any(all(w in line for w in words) for line in shown.splitlines()), words


@pytest.mark.parametrize("what", ["nothing", "empty", "no manifest", "no tar", "no order"])
def test_inspect_refuses_what_is_no_dataset(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    if what != "nothing":
        folder.mkdir()
    if what == "no manifest":
        (folder / "manifest.json").write_text("[]")
    if what == "no tar":
        (folder / "a.tar").write_text("no tar")
    if what == "no order":
        with tarfile.open(folder / "a.tar", "w") as tar:
            for name in ("1.jpg", "2.jpg", "1.txt", "2.txt"):
                tar.addfile(tarfile.TarInfo(name))
    assert main(["inspect", str(folder)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_full_disk_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("mmfm_prep.writer.DatasetWriter.write", full)
    assert main(["make", "synthetic", str(tmp_path / "out"), "train_samples=4"]) == 2
    assert capsys.readouterr().err == "mmfm data: No space left on device\n"
    assert list(tmp_path.iterdir()) == []
