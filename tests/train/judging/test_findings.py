"""What evaluations keep for the page of a run: which steps stay, and what a run leaves."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from mmfm import cli
from mmfm.train.judging import findings
from mmfm.train.judging.best import KeepBest
from mmfm_eval.tasks.base import Findings, Mistake, Score
from tests.tiny_runs import pretrain
from tests.train.test_finetune import finetune

ACCURACY = KeepBest(task="a/b", metric="accuracy")


def keep(run: Path, step: int, value: float, by: KeepBest | None = None) -> list[int]:
    """The steps that are there when an evaluation is kept."""
    mistake = Mistake(source="s", id="1", right="x", said="y", wrong=2.0)
    found = Findings([Score("accuracy", value, 3, (0.1, 0.9))], {"rows": 3}, [mistake])
    findings.keep(run, step, "a/b", found)
    findings.prune(run, step, by)
    return sorted(int(path.name.removeprefix("step_")) for path in run.glob("evaluation/step_*"))


def test_the_first_and_the_newest_stay(tmp_path: Path) -> None:
    there = [keep(tmp_path, step, 0.5) for step in (0, 10, 20, 30)]
    assert there == [[0], [0, 10], [0, 20], [0, 30]]
    (path,) = (tmp_path / "evaluation/step_00000030").iterdir()
    assert path.name == "a%2Fb.json"
    told = json.loads(path.read_text())
    assert (told["task"], told["details"]) == ("a/b", {"rows": 3})
    assert told["scores"][0]["ci95"] == [0.1, 0.9]
    assert told["mistakes"][0]["id"] == "1"


@pytest.mark.parametrize(("mode", "stay"), [("max", [0, 20, 40]), ("min", [0, 30, 40])])
def test_the_best_stays(tmp_path: Path, mode: str, stay: list[int]) -> None:
    by = KeepBest(task="a/b", metric="accuracy", mode=mode)  # type: ignore[arg-type]
    values = {0: 0.95, 10: 0.5, 20: 0.6, 30: 0.4, 40: 0.5}
    for step, value in values.items():
        there = keep(tmp_path, step, value, by)
    assert there == stay


def test_a_step_that_is_run_again_is_kept_anew(tmp_path: Path) -> None:
    for step, value in ((0, 0.1), (10, 0.9), (20, 0.3)):
        keep(tmp_path, step, value, ACCURACY)
    assert keep(tmp_path, 10, 0.2, ACCURACY) == [0, 10, 20]
    assert keep(tmp_path, 20, 0.3, ACCURACY) == [0, 20]


@pytest.fixture(scope="module")
def pretrained(synthetic: Path, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("findings") / "pretrained"
    assert cli.main(pretrain(synthetic, run, "train.max_steps=1")) == 0
    return run


def test_a_run_leaves_its_page(pretrained: Path, synthetic: Path, tmp_path: Path, capfd) -> None:
    """Also where it was stopped, and where it is told again what it has done."""
    run = tmp_path / "run"
    words = finetune(synthetic, pretrained, run, "freeze=model", "report.mistakes=2")
    assert cli.main(words) == 0
    out = capfd.readouterr().out
    assert "weighted avg" in out
    kept = {path.parent.name for path in run.glob("evaluation/*/shape.json")}
    assert kept == {"step_00000000", "step_00000004"}
    told = json.loads((run / "evaluation/step_00000004/shape.json").read_text())
    assert sum(map(sum, told["details"]["confusion"]["counts"])) == told["scores"][0]["n"]
    assert [m["source"] for m in told["mistakes"]] == ["held_out"] * 2
    page = (run / "report.html").read_text()
    assert page.count("data:audio/flac") + page.count("data:image/webp") >= 2
    weights = json.loads((run / "environment.json").read_text())["weights"]
    assert 0 < weights["trained"] < weights["total"]
    assert f"{weights['trained']:,} of {weights['total']:,} weights" in page
    (run / "report.html").unlink()
    shutil.rmtree(run / "checkpoints/step_00000004")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(ln for ln in lines if '"step": 4' not in ln))
    assert cli.main(words) == 0
    again = json.loads((run / "evaluation/step_00000004/shape.json").read_text())
    assert again == told
    assert _timeless((run / "report.html").read_text()) == _timeless(page)


def _timeless(page: str) -> str:
    """The page without what was measured: the step that ran again took another time."""
    found, times = re.subn(r"(<dt>time in steps</dt><dd>)[^<]+", r"\1", page)
    assert times == 1
    return found


def test_without_report_it_is_the_plain_page(
    pretrained: Path, synthetic: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert cli.main(finetune(synthetic, pretrained, run, "freeze=model", "report=null")) == 0
    assert not (run / "evaluation").exists()
    assert "Training losses" in (run / "report.html").read_text()


def test_refuses_a_page_that_there_is_not(
    pretrained: Path, synthetic: Path, tmp_path: Path, capfd
) -> None:
    words = finetune(synthetic, pretrained, tmp_path / "run", "report={type: finetune}")
    assert cli.main(words) == 2
    assert "report.type: no module 'finetune'; did you mean 'finetuned'?" in capfd.readouterr().err
