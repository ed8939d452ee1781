"""The command ``mmfm tune``: a whole search, what it says and writes, and what it refuses."""

from __future__ import annotations

import os
import signal
import threading
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from mmfm import cli
from mmfm.config import ConfigError
from mmfm.train.recipe import load_finetune
from mmfm.tune import command, trial
from mmfm.tune.study import Trials
from tests.tiny_heads import COLOUR, accuracy, recipe
from tests.tune import fakes
from tests.tune.fakes import BY, make_search

GOOD = "tell(1, lr - (lr - .3) ** 2 * 9); tell(2, 1 - (lr - .3) ** 2)"
HELD = {"sources": {"late": {"path": "data"}}, "tasks": {"final": {**COLOUR, "source": "late"}}}


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(trial, "LOOKS_EVERY_S", 0.02)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Trials:
    """Eight trials by two workers."""
    trials = Trials(make_search(tmp_path_factory.mktemp("search"), test=HELD), 8, sampler="random")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "LOOKS_EVERY_S", 0.02)
        patch.setattr(trial, "command", fakes.command(GOOD))
        assert command._search(trials, 2) == 0
    return trials


def test_the_best_is_shown_and_can_be_run(found: Trials, capsys) -> None:
    command._show(found)
    told = capsys.readouterr().out
    best = found.best()
    assert best is not None
    assert best.value == max(t.value for t in found.study.get_trials() if t.value is not None)
    assert f"best: colour accuracy {best.value:.4f}, trial {best.number} (" in told
    assert f"  optim.lr={best.params['optim.lr']}" in told
    assert "what explains the scores:" in told
    assert "█" in told
    path = found.search.folder / "best.yaml"
    raw = yaml.safe_load(path.read_text())
    assert raw["test"] == HELD
    assert raw["run"]["dir"] == str(found.search.folder / "best")
    assert load_finetune(path).optim.lr == best.params["optim.lr"]


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs) -> None:
        self.tags.append(tag)


def test_the_page(found: Trials) -> None:
    text = (found.search.folder / "tune.html").read_text()
    parsed = Page()
    parsed.feed(text)
    complete = [t for t in found.study.get_trials() if t.state.name == "COMPLETE"]
    # The history and each of the two settings have a dot for each trial.
    assert parsed.tags.count("circle") == 3 * len(complete)
    assert parsed.tags.count("svg") == 4
    assert parsed.tags.count("rect") == 2
    assert parsed.tags.count("tr") == 9
    assert text.count('class="best"') == 3
    assert "nan" not in text


def test_the_same_command_adds_what_is_missing(found: Trials, monkeypatch, capsys) -> None:
    monkeypatch.setattr(trial, "command", fakes.command(GOOD))
    assert command._search(Trials(found.search, 8), 2) == 0
    assert "begins" not in capsys.readouterr().out
    assert command._search(Trials(found.search, 9), 2) == 0
    assert capsys.readouterr().out.count("begins") == 1


def test_a_crash_ends_no_search(tmp_path: Path, monkeypatch, capsys) -> None:
    body = "sys.exit('out of memory') if raw['freeze'] == 'none' else tell(1, .5)"
    monkeypatch.setattr(trial, "command", fakes.command(body))
    trials = Trials(make_search(tmp_path), 6, sampler="random", seed=3)
    assert command._search(trials, 1) == 0
    told = capsys.readouterr().out
    assert "failed  out of memory" in told
    assert "complete  0.5000" in told
    assert "out of memory" in (trials.search.folder / "tune.html").read_text()


def test_an_asked_for_stop_and_the_way_on(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(trial, "command", fakes.command("tell(1, .5); time.sleep(60)"))
    timer = threading.Timer(2.0, lambda: os.kill(os.getpid(), signal.SIGTERM))
    timer.start()
    began = time.monotonic()
    assert command._search(Trials(make_search(tmp_path), 2), 2) == 130
    assert time.monotonic() - began < 30
    assert "stopped; the same command goes on" in capsys.readouterr().err
    monkeypatch.setattr(trial, "command", fakes.command(GOOD))
    trials = Trials(make_search(tmp_path), 2)
    assert command._search(trials, 1) == 0
    assert [t.state.name for t in trials.study.get_trials()] == [*2 * ["FAIL"], *2 * ["COMPLETE"]]


def test_a_search_that_only_fails_is_an_error(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(trial, "command", fakes.command("sys.exit('out of memory')"))
    with pytest.raises(ConfigError, match="the first 3 trials have failed"):
        command._search(Trials(make_search(tmp_path), 9), 1)


def test_what_the_words_ask_for(tmp_path: Path, monkeypatch, capsys) -> None:
    seen: list[tuple[Trials, int]] = []
    monkeypatch.setattr(command, "_plan", lambda _: "the plan")
    monkeypatch.setattr(command, "_search", lambda *given: seen.append(given) or 0)
    path = recipe(tmp_path, Path("data"), search={"optim.lr": [0.1, 0.2]}, search_by=BY)
    words = ["--trials", "7", "--workers", "3", "--sampler", "random", "--pruner", "halving"]
    assert command.main([path, *words, "--seed", "5", "--keep-checkpoints", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("the plan\n")
    assert not seen
    assert command.main([path, *words, "--seed", "5", "--keep-checkpoints", "optim.lr=0.5"]) == 0
    ((trials, workers),) = seen
    assert (trials.limit, workers, trials.sampler, trials.pruner) == (7, 3, "random", "halving")
    assert (trials.seed, trials.keep) == (5, True)
    assert trials.search.recipe["optim"]["lr"] == 0.5


def test_workers_share_the_machine(monkeypatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(command.os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    given = [command._environment(worker, 3) for worker in range(3)]
    assert [g["CUDA_VISIBLE_DEVICES"] for g in given] == ["2", "5", "2"]
    assert {g["OMP_NUM_THREADS"] for g in given} == {"2"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert command._environment(0, 1) == {}


def test_a_real_search(synthetic: Path, tmp_path: Path, capsys) -> None:
    """Checked by a dry run, then a trial in a process of its own, then its best recipe."""
    search = {"optim.lr": {"low": 1e-3, "high": 1e-2}}
    held = {"sources": {"held_out": {"path": str(synthetic), "splits": ["val"]}}}
    test = {**held, "tasks": {"final": COLOUR}}
    path = recipe(tmp_path, synthetic, search=search, search_by=BY, test=test)
    assert command.main([path, "--trials", "1"]) == 0
    trial_run = tmp_path / "run/trials/0000"
    assert f"best: colour accuracy {accuracy(trial_run)[6]:.4f}, trial 0" in capsys.readouterr().out
    assert not (trial_run / "test.json").exists()
    assert accuracy(trial_run, "test") == {}
    assert cli.main(["finetune", str(tmp_path / "run/best.yaml")]) == 0
    assert accuracy(tmp_path / "run/best") == accuracy(trial_run)
    assert (tmp_path / "run/best/test.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trials", "0"], "'0' must be a number of at least 1"),
        (["--sampler", "best"], "--sampler best: there is none"),
        (["search=null"], "search: name the settings"),
        (["data.sources.pictures.path=/nowhere"], "data.sources.pictures: there is no"),
    ],
)
def test_what_is_refused(synthetic: Path, tmp_path: Path, capsys, words, message: str) -> None:
    path = recipe(tmp_path, synthetic, search={"optim.lr": [0.1, 0.2]}, search_by=BY)
    assert command.main([path, *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("mmfm tune: error: ")
    assert message in lines[0]
    assert not (tmp_path / "run").exists()


def test_no_launcher(synthetic: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command.main([recipe(tmp_path, synthetic)]) == 2
    assert "run it without a launcher" in capsys.readouterr().err
