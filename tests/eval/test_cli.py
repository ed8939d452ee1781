"""`mmfm eval` from its arguments to its files, and one line with exit code 2 for what the user can
mend.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmfm.checkpoint import FORMAT
from mmfm_eval import cli, results, runner
from tests.eval.fakes import FakePredictor
from tests.eval.shards import SPECS, make_set
from tests.eval.tiny_checkpoint import make_checkpoint, make_data


class PicturePredictor(FakePredictor):
    """Takes a picture's own pixels for its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.specs = SPECS


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run" / "checkpoints" / "step_00000007"
    folder.mkdir(parents=True)
    manifest = {"format": FORMAT, "step": 7, "samples_seen": 70, "files": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    preprocessing = {"specs": SPECS, "transforms": {}, "label": None}
    (folder / "preprocessing.json").write_text(json.dumps(preprocessing))
    monkeypatch.setattr(runner, "load", lambda path, device: PicturePredictor())
    monkeypatch.setattr(runner, "untrained", lambda predictor, seed: PicturePredictor())
    return folder


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    for name, animals in {"a": ["dog", "cat"], "b": ["ant", "cat"]}.items():
        make_set(tmp_path / name, animals, broken=(7,) if name == "b" else ())
    settings = {
        "name": "pets",
        "batch_size": 3,
        "sources": {name: {"path": str(tmp_path / name)} for name in "ab"},
        "tasks": {
            "same_animal": {
                "type": "retrieval",
                "query": {"source": "b", "modality": "image"},
                "gallery": {"source": "a", "modality": "image"},
                "baseline": "pixels",
            },
            "within": {
                "type": "retrieval",
                "query": {"source": "a", "modality": "image"},
                "gallery": {"source": "a", "modality": "image"},
            },
        },
    }
    path = tmp_path / "pets.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    code = cli.main([str(a) for a in arguments])
    return code, *capsys.readouterr()


def test_a_suite_gives_results_and_a_report_beside_the_run(
    checkpoint: Path, suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, checkpoint, suite)
    assert code == 0
    assert err.splitlines()[0] == "pass 1 of 2: b, image"
    folder = checkpoint.parents[1] / "eval" / "pets" / "step_00000007"
    assert sorted(p.name for p in folder.iterdir()) == ["report.html", "results.json"]
    document = json.loads((folder / "results.json").read_text())
    found = {(r["task"], r["metric"]): r for r in document["results"]}
    first = found["same_animal", "b.image_to_a.image_R@1"]
    assert (first["value"], first["n"]) == (1.0, 3)  # the cats; the last one is broken
    assert (first["baseline"], first["baseline_name"]) == (1.0, "nearest pixels")
    assert found["within", "image_to_image_R@1"]["baseline_name"] == "untrained network"
    assert sum(document["left_out"]["b"].values()) == 1
    assert document["model"]["step"] == 7
    assert "pets" in out
    assert "1 samples left out" in out


def test_the_same_evaluation_gives_the_same_file(
    checkpoint: Path, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(capsys, checkpoint, suite, "--out", one)[0] == 0
    assert run(capsys, checkpoint.parents[1], "--out", two, suite, "workers=0")[0] == 0
    assert (one / "results.json").read_text() == (two / "results.json").read_text()
    assert run(capsys, checkpoint, suite, "seed=5", "--out", two)[0] == 0
    prints = [json.loads((f / "results.json").read_text())["protocol"] for f in (one, two)]
    assert prints[0]["fingerprint"] != prints[1]["fingerprint"]


def test_a_dry_run_opens_everything_and_writes_nothing(
    checkpoint: Path, suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, checkpoint, suite, "--dry-run", "--local_rank=0")
    assert code == 0
    assert "source a: 8 samples" in out
    assert not (checkpoint.parents[1] / "eval").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("tsks.x=1", "unknown key tsks; did you mean 'tasks'?"),
        ("tasks.within.type=retreival", "tasks.within.type: no module 'retreival'; did you mean"),
        ("tasks.within.query.source=aa", "tasks.within: there is no source 'aa'; did you mean 'a'"),
        ("tasks.within.query.modality=video", "tasks.within: the checkpoint has no encoder for"),
        ("sources.a.path=/nowhere", "sources.a: "),
        ("sources.a.splits=[test]", "sources.a: "),
        ("batch_size=0", "batch_size must be at least 1"),
        ("name=a/b", "it names a folder"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    checkpoint: Path,
    suite: Path,
    capsys: pytest.CaptureFixture[str],
    change: str,
    message: str,
) -> None:
    code, out, err = run(capsys, checkpoint, suite, change)
    assert code == 2
    assert out == ""
    assert err.startswith("mmfm eval: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (checkpoint.parents[1] / "eval").exists()


def test_missing_files_are_one_line(
    checkpoint: Path, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, tmp_path / "nothing", suite)
    assert (code, err.count("\n")) == (2, 1)
    assert "no checkpoint" in err
    code, _, err = run(capsys, checkpoint, suite.with_name("petz.yaml"))
    assert (code, err.count("\n")) == (2, 1)
    assert "Did you mean" in err
    (tmp_path / "file").write_text("")
    code, _, err = run(capsys, checkpoint, suite, "--out", tmp_path / "file" / "out")
    assert (code, err.count("\n")) == (2, 1)


def test_a_head_is_judged_on_real_shards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run_folder = make_data(tmp_path / "data"), tmp_path / "run"
    make_checkpoint(run_folder, head=True)
    capsys.readouterr()
    suite = tmp_path / "suite.yaml"
    source = {"path": str(data), "splits": ["val"]}
    tasks = {"shape": {"type": "classification", "source": "val"}}
    suite.write_text(yaml.safe_dump({"name": "s", "sources": {"val": source}, "tasks": tasks}))
    code, _, err = run(capsys, run_folder, suite, "--device", "cpu")
    assert (code, err) == (0, "pass 1 of 1: val, head\n")
    (results,) = run_folder.glob("eval/s/*/results.json")
    document = json.loads(results.read_text())
    found = {r["metric"]: r for r in document["results"]}
    table = {row["class"]: row for row in document["details"]["shape"]["per_class"]}
    rows = document["details"]["shape"]["rows"]
    assert found["accuracy"]["value"] == pytest.approx(table["circle"]["n"] / rows)
    assert found["accuracy"]["chance"] == pytest.approx(1 / 6)
    assert found["ece"]["value"] == pytest.approx(abs(found["accuracy"]["value"] - 1 / 6))
    assert table["circle"]["recall"] in (1.0, None)


def test_help_imports_no_torch() -> None:
    program = (
        "import sys; from mmfm_eval import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    assert "SUITE" in done.stdout.upper()


def test_what_was_run_before_is_shown_and_not_run_again(
    checkpoint: Path, suite: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    _, first, _ = run(capsys, checkpoint, suite)
    file = Path(first.split()[-2])
    before = file.read_text()
    page = file.with_name("report.html").read_text()
    file.with_name("report.html").unlink()
    code, again, err = run(capsys, checkpoint, suite)
    assert (code, again) == (0, first)
    assert "already" in err
    assert "pass" not in err
    assert file.read_text() == before
    assert file.with_name("report.html").read_text() == page
    for other in (["--force"], ["seed=1"]):
        _, _, err = run(capsys, checkpoint, suite, *other)
        assert "pass 1 of 2" in err
    run(capsys, checkpoint, suite)
    monkeypatch.setattr(results, "code_digest", lambda tasks: "other code")
    assert "pass 1 of 2" in run(capsys, checkpoint, suite)[2]


@pytest.mark.parametrize("content", ["", "[]", '{"protocol": {}}'])
def test_results_that_cannot_be_read_are_made_anew(
    content: str, checkpoint: Path, suite: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "results.json").write_text(content)
    assert "pass 1 of 2" in run(capsys, checkpoint, suite, "--out", tmp_path)[2]
