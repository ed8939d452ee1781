"""An interrupted `mmfm data make` goes on where it stopped, and what it makes is the same."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmfm_prep import make
from mmfm_prep.cli import main
from mmfm_prep.making.draft import Draft
from mmfm_prep.making.spool import CHUNK, Spool
from mmfm_prep.sources.base import files
from mmfm_prep.sources.base.files import FilesSource


@dataclass(kw_only=True)
class Config(FilesSource):
    """The lines of a file; the process is killed, once, by the line that says so."""

    def drafts(self) -> Iterator[Draft]:
        for number, line in enumerate(self.input.read_text().splitlines()):
            if line == "kill" and not (killed := self.input.with_suffix(".killed")).exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield Draft(
                place=f"{number}", key=f"{number}", id=f"{number}", group=f"{number}",
                texts={"en": [f"{number} {line}"]},
            )  # fmt: skip


def tars(folder: Path) -> dict[str, bytes]:
    """The shards and the manifest; an index also has the time of its tar."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".tar", ".json")}


def unfinished(folder: Path) -> list[Path]:
    return sorted(folder.parent.glob(f".{folder.name}.unfinished/*.chunk"))


def test_a_killed_make_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "lines"
    lines.write_text("plain\n" * 5 * CHUNK + "kill\n" + "plain\n" * CHUNK)
    command = [sys.executable, "-m", "mmfm_prep.cli", "make", __name__, str(lines)]
    killed = subprocess.run([*command, str(tmp_path / "out"), "--workers=1"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert len(unfinished(tmp_path / "out")) == 5
    assert main(["make", __name__, str(lines), str(tmp_path / "out"), "--workers=1"]) == 0
    assert f"{5 * CHUNK} samples were read before" in capsys.readouterr().err.replace(",", "")
    assert main(["make", __name__, str(lines), str(tmp_path / "other"), "--workers=2"]) == 0
    assert tars(tmp_path / "out") == tars(tmp_path / "other")
    assert {p.name for p in tmp_path.iterdir()} == {"lines", "lines.killed", "out", "other"}


def test_a_stopped_make_says_where_its_work_waits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tmp_path / "lines"
    lines.write_text("plain\n" * 3 * CHUNK)
    complete, done = Spool.complete, []

    def interrupted(self: Spool, *given: object) -> int:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(complete(self, *given))
        return done[-1]

    monkeypatch.setattr(Spool, "complete", interrupted)
    monkeypatch.setattr(files, "partial", lambda f, recipe: lambda chunk: f(chunk, recipe))
    words = ["make", __name__, str(lines), str(tmp_path / "out"), "--workers=1"]
    assert main(words) == 130
    assert "the same command goes on with it" in capsys.readouterr().err
    assert len(unfinished(tmp_path / "out")) == 2


def test_changed_input_is_made_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, out = tmp_path / "lines", tmp_path / "out"
    lines.write_text("one\ntwo\n")
    words = ["make", __name__, str(lines), str(out)]
    assert main(words) == 0
    assert main(words) == 0
    assert "is already there: 2 samples" in capsys.readouterr().err
    lines.write_text("one\ntwo\nthree\n")
    assert main(words) == 2
    assert "changed since; --force makes it anew" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0
    assert sum(json.loads((out / "manifest.json").read_text())["totals"].values()) == 3


def test_two_at_once_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lines").write_text("one\n")
    work = tmp_path / ".out.unfinished"
    work.mkdir()
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["make", __name__, str(tmp_path / "lines"), str(tmp_path / "out")]) == 2
        assert (work / "lock").exists(), "it belongs to the other process"
    assert "another process is making this dataset" in capsys.readouterr().err


def test_one_that_was_made_meanwhile_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lines").write_text("one\n")
    words = ["make", __name__, str(tmp_path / "lines"), str(tmp_path / "out")]
    assert main(words) == 0
    before = tars(tmp_path / "out")
    found = iter([None])  # what was there when this process looked first
    there = make.existing
    monkeypatch.setattr(make, "existing", lambda folder: next(found, there(folder)))
    assert main([*words, "seed=1"]) == 2
    assert "was made by another process meanwhile" in capsys.readouterr().err
    assert tars(tmp_path / "out") == before


@pytest.mark.slow
def test_ray_makes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster of two machines with a process each."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    lines = tmp_path / "lines"
    lines.write_text("plain\n" * 5 * CHUNK)
    words = ["make", __name__, str(lines)]
    assert main([*words, str(tmp_path / "here"), "--workers=1"]) == 0
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        assert main([*words, str(tmp_path / "there"), "--engine=ray", "--workers=2"]) == 0
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert tars(tmp_path / "here") == tars(tmp_path / "there")


def test_ray_is_for_sources_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["make", "synthetic", str(tmp_path / "out"), "--engine=ray"]) == 2
    assert "is made on this machine" in capsys.readouterr().err


def test_workers_are_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["make", "synthetic", str(tmp_path / "out"), "--workers=0"]) == 2
    assert "--workers 0 must be at least 1" in capsys.readouterr().err
