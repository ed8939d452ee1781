"""metrics.jsonl only grows, is readable after a kill, and notices a step on other samples."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmfm import files
from mmfm.train import log as train_log
from mmfm.train.log import RunLog, environment, read_metrics, summary


def row(step: int, batch_hash: str = "h", **more: Any) -> dict[str, Any]:
    base = {"step": step, "batch_hash": f"{batch_hash}{step}", "loss": 1.5 / step}
    speed = {"samples_per_s": 10.0, "tokens_per_s": 45_210.0, "memory_gb": 1.25}
    return {**base, **speed, "data_wait": 0.1, "eta_s": 61.0, **more}


@pytest.fixture
def log(tmp_path: Path):
    made = []

    def start(main: bool = True) -> RunLog:
        made.append(RunLog(tmp_path, main, 10))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_rows_are_written_at_once(tmp_path: Path, log) -> None:
    one = log()
    one.train(row(1))
    one.evaluation({"step": 1, "split": "eval", "task": "t", "metric": "R@1", "value": 0.5, "n": 9})
    one.event("resume", step=1)
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {**row(1), "split": "train"},
        {"step": 1, "split": "eval", "task": "t", "metric": "R@1", "value": 0.5, "n": 9},
        {"event": "resume", "step": 1},
    ]


def test_a_full_disk_names_the_file(tmp_path: Path, log) -> None:
    one = log()
    one._metrics.close()
    one._metrics = open("/dev/full", "a")  # noqa: SIM115
    with pytest.raises(OSError, match=r"metrics\.jsonl can't be written: .*No space left"):
        one.train(row(1))
    one.close()


def test_a_second_start_appends(tmp_path: Path, log) -> None:
    one = log()
    one.train(row(1))
    one.close()
    log().train(row(2))
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


def test_a_step_that_is_run_again_must_have_the_same_samples(tmp_path: Path, log) -> None:
    one = log()
    one.train(row(1))
    one.train(row(2))
    one.close()
    again = log()
    again.train(row(2, loss=0.3))
    with pytest.raises(ValueError, match=r"step 1 was run on other samples before .*use a new"):
        again.train(row(1, "other"))
    steps = [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == [1, 2, 2]


@pytest.mark.parametrize("cut", [1, 10, 30])
def test_a_line_cut_short_by_a_kill_costs_that_line_only(tmp_path: Path, log, cut: int) -> None:
    one = log()
    one.train(row(1))
    one.train(row(2, name="grün"))
    one.close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    log().train(row(3))
    found = read_metrics(path)
    # Cut by its newline alone, the line is whole.
    assert [r["step"] for r in found] == ([1, 2, 3] if cut == 1 else [1, 3])


def test_a_character_cut_in_half(tmp_path: Path, log) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = json.dumps({"step": 1, "name": "ü"}, ensure_ascii=False).encode()
    path.write_bytes(b'{"step": 0}\n' + whole[: whole.index("ü".encode()) + 1])
    log().train(row(3))
    assert [r["step"] for r in read_metrics(path)] == [0, 3]


def test_a_folder_is_of_one_run_at_a_time(tmp_path: Path, log, monkeypatch) -> None:
    first = log()
    first.event("start")
    monkeypatch.setattr(train_log, "hold", lambda file: files.hold(file, wait_s=0.2))
    with pytest.raises(ValueError, match="is of a run that is going on"):
        RunLog(tmp_path, True, 10)
    pid = os.fork()
    if pid == 0:  # a worker that outlives the log, with all that was open
        time.sleep(60)
        os._exit(0)
    try:
        first.close()
        RunLog(tmp_path, True, 10).close()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"event": "start"}\n'


def test_other_ranks_write_nothing(tmp_path: Path, log) -> None:
    other = log(main=False)
    other.train(row(1))
    other.evaluation({"step": 1})
    other.event("x")
    other.say("hello")
    assert not list(tmp_path.iterdir())


def test_lines_for_people(tmp_path: Path, log, capsys) -> None:
    one = log()
    one.say("continuing [bold] from step 3")
    one.train(row(1))
    told = capsys.readouterr().err
    assert "continuing [bold] from step 3" in told
    assert (
        "step 1  loss 1.5000  10 samples/s  45.2k tokens/s  data wait 10 %  1.2 GB  eta 1:01"
    ) in told
    assert (tmp_path / "log.txt").read_text() == "continuing [bold] from step 3\n"


def test_summaries_of_scores() -> None:
    def score(name: str, value: float, chance: float | None = None) -> SimpleNamespace:
        return SimpleNamespace(name=name, value=value, n=7, chance=chance)

    both = [score("a_to_b_R@1", 0.5, 0.1), score("a_to_b_R@5", 0.75), score("b_to_a_R@1", 0.25)]
    assert summary(both) == [
        "a_to_b  R@1 0.5000 (chance 0.1000)  R@5 0.7500  n 7",
        "b_to_a  R@1 0.2500  n 7",
    ]
    assert summary([score("accuracy", 0.5), score("ece", 0.1)]) == ["accuracy 0.5000  n 7"]
    assert summary([score("ece", 0.125)]) == ["ece 0.1250  n 7"]
    assert summary([]) == []


def test_no_metrics_yet(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_environment() -> None:
    found = environment()
    assert set(found["packages"]) >= {"torch", "deepspeed", "mmfm"}
    json.dumps(found)
