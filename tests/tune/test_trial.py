"""A trial is followed while it runs: its scores, its end, and who ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import yaml

from mmfm.tune import trial
from mmfm.tune.trial import Outcome, Tail, run_trial
from tests.tune.fakes import BY, command, make_search


class Judge:
    """Prunes at a step."""

    def __init__(self, prune_at: int | None = None) -> None:
        self.prune_at, self.seen = prune_at, list[tuple[float, int]]()

    def report(self, value: float, step: int) -> None:
        self.seen.append((value, step))

    def should_prune(self) -> bool:
        return self.seen[-1][1] == self.prune_at


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(trial, "LOOKS_EVERY_S", 0.02)


def run(tmp_path: Path, monkeypatch, body: str, judge: Judge | None = None, **sections) -> Outcome:
    monkeypatch.setattr(trial, "command", command(body))
    search = make_search(tmp_path, **sections)
    return run_trial(
        search,
        {"optim.lr": 0.5, "freeze": "none"},
        tmp_path / "0000",
        judge or Judge(),
        stop=threading.Event(),
        environment={"GIVEN": "yes"},
    )


def test_scores_are_reported_once(tmp_path: Path, monkeypatch) -> None:
    """Not the one before training, nor one of another task, nor a step that is run again."""
    judge = Judge()
    body = (
        "tell(0, .9); tell(1, .1); tell(1, .9, task='other'); tell(1, .9, split='test')\n"
        "time.sleep(.2); tell(1, .1); tell(2, lr)"
    )
    assert run(tmp_path, monkeypatch, body, judge) == Outcome("complete", 0.5)
    assert judge.seen == [(0.1, 1), (0.5, 2)]
    raw = yaml.safe_load((tmp_path / "0000.yaml").read_text())
    assert raw["optim"]["lr"] == 0.5


@pytest.mark.parametrize(
    ("train", "value"),
    [
        ({}, 0.2),
        ({"keep_best": BY}, 0.7),
        ({"keep_best": {**BY, "mode": "min"}}, 0.1),
        ({"keep_best": {**BY, "metric": "ece", "mode": "min"}}, 0.3),
        ({"keep_best": {**BY, "metric": "nothing"}}, 0.2),
    ],
)
def test_the_score_is_that_of_the_checkpoint_handed_out(
    tmp_path: Path, monkeypatch, train, value: float
) -> None:
    body = "\n".join(
        f"tell({step}, {score}); tell({step}, {ece}, metric='ece')"
        for step, (score, ece) in enumerate([(0.1, 3), (0.7, 2), (0.3, 1), (0.2, 4)], 1)
    )
    assert run(tmp_path, monkeypatch, body, train=train) == Outcome("complete", value)


def test_a_pruned_trial_is_ended(tmp_path: Path, monkeypatch) -> None:
    body = "tell(1, .1); tell(2, .2); time.sleep(60); tell(3, .9)"
    began = time.monotonic()
    judge = Judge(prune_at=2)
    assert run(tmp_path, monkeypatch, body, judge) == Outcome("pruned", 0.2)
    assert judge.seen == [(0.1, 1), (0.2, 2)]
    assert time.monotonic() - began < 30


def test_nothing_is_judged_behind_where_it_is_pruned(tmp_path: Path, monkeypatch) -> None:
    (folder := tmp_path / "0000").mkdir()
    about = {"split": "eval", **BY}
    rows = [{"step": step, **about, "value": step / 10} for step in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = Judge(prune_at=2)
    assert run(tmp_path, monkeypatch, "time.sleep(5)", judge).state == "pruned"
    assert judge.seen == [(0.1, 1), (0.2, 2)]


def test_a_trial_that_will_not_stop_is_killed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(trial, "ENDS_IN_S", 0.2)
    body = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); tell(1, 1); time.sleep(60)"
    )
    assert run(tmp_path, monkeypatch, body, Judge(prune_at=1)).state == "pruned"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("print('some lines'); sys.exit('mmfm finetune: error: no such thing')", "no such thing"),
        ("sys.exit(3)", "exit code 3"),
        ("os.kill(os.getpid(), 9)", "exit code -9"),
        ("tell(1, .5, metric='f1')", "no evaluation had colour accuracy, but colour f1"),
        ("pass", "but nothing"),
    ],
)
def test_a_trial_that_fails_says_why(tmp_path: Path, monkeypatch, body: str, error: str) -> None:
    outcome = run(tmp_path, monkeypatch, f"import os\n{body}")
    assert outcome.state == "failed"
    assert error in outcome.error


def test_a_search_that_is_asked_to_stop_stops_its_trial(tmp_path: Path, monkeypatch) -> None:
    stop = threading.Event()
    monkeypatch.setattr(trial, "command", command("tell(1, .5); time.sleep(60)"))
    threading.Timer(1.0, stop.set).start()
    judge, search = Judge(), make_search(tmp_path)
    settings = {"optim.lr": 0.5, "freeze": "none"}
    outcome = run_trial(search, settings, tmp_path / "0", judge, stop=stop, environment={})
    assert outcome.state == "stopped"


@pytest.mark.parametrize(("more", "state"), [("", "stopped"), ("; tell(2, .6)", "complete")])
def test_a_trial_that_others_stop_is_not_done(
    tmp_path: Path, monkeypatch, more: str, state: str
) -> None:
    """Such a run ends with exit code 0; one that went on later is done."""
    body = f"tell(1, .5); tell(1, 0, event='stop', split=''){more}"
    assert run(tmp_path, monkeypatch, body).state == state


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("sys.exit('out of memory')", Outcome("failed", error="out of memory")),
        ("pass", Outcome("complete", 0.5)),
    ],
)
def test_a_stop_of_the_process_before_does_not_count(
    tmp_path: Path, monkeypatch, body: str, outcome: Outcome
) -> None:
    """Else a trial that can't go on would be tried again for ever."""
    stopped = "tell(1, .5); tell(1, 0, event='stop', split='')"
    assert run(tmp_path, monkeypatch, stopped).state == "stopped"
    assert run(tmp_path, monkeypatch, body) == outcome


def test_one_that_fails_after_its_stop_has_failed(tmp_path: Path, monkeypatch) -> None:
    body = "tell(1, .5); tell(1, 0, event='stop', split=''); sys.exit('no space left')"
    assert run(tmp_path, monkeypatch, body) == Outcome("failed", error="no space left")


def test_lines_that_are_not_whole_wait(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "metrics.jsonl")
    assert list(tail.rows()) == []
    with tail.path.open("w") as file:
        file.write('{"a": 1}\n{"a": ')
        file.flush()
        assert list(tail.rows()) == [{"a": 1}]
        file.write('2}\nbroken\n{"a": 3}\n')
    assert list(tail.rows()) == [{"a": 2}, {"a": 3}]


PARENT = """
import subprocess, sys, os, time
code = "import sys, mmfm.tune.child as c; c.cli.main = lambda a: __import__('time').sleep(60)"
code += "; print('up', flush=True); sys.exit(c.main([sys.argv[1]]))"
child = subprocess.Popen([sys.executable, "-c", code, str(os.getpid())], stdout=subprocess.PIPE)
child.stdout.readline()
time.sleep(0.5)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_trial_ends_with_its_search() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_trial_without_its_search_does_not_begin() -> None:
    words = ["-m", "mmfm.tune.child", "1", "finetune", "nothing.yaml"]
    assert subprocess.run([sys.executable, *words], env=dict(os.environ)).returncode == 1


def test_a_trial_runs_the_command_of_its_search() -> None:
    assert trial.command("pretrain", Path("a.yaml"))[-2:] == ["pretrain", "a.yaml"]


def test_the_environment_reaches_the_trial(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GIVEN", "no")
    body = "import os; tell(1, .5); print(json.dumps([os.environ['GIVEN']]))"
    assert run(tmp_path, monkeypatch, body).state == "complete"
    assert json.loads((tmp_path / "0000.txt").read_text()) == ["yes"]
