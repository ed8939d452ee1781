"""The trials of a search: how many, in which state, and who goes on with those that were left."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState

from mmfm.config import ConfigError
from mmfm.files import hold, let_go
from mmfm.tune import study
from mmfm.tune.study import Claim, Trials
from mmfm.tune.trial import Outcome
from tests.tune.fakes import BY, make_search


def trials_in(folder: Path, limit: int = 3, **settings) -> Trials:
    sections = settings.pop("sections", {})
    trials = Trials(make_search(folder, **sections), limit, **settings)
    trials.open()
    return trials


def claimed(trials: Trials) -> Claim:
    claim = trials.next()
    assert claim is not None
    return claim


def done(trials: Trials, value: float | None, state="complete", error: str = "") -> Claim:
    claim = claimed(trials)
    (claim.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    trials.finish(claim, Outcome(state, value, error))
    return claim


def states(trials: Trials) -> list[str]:
    return [t.state.name for t in trials.study.get_trials()]


def test_there_are_as_many_as_asked_for(tmp_path: Path) -> None:
    trials = trials_in(tmp_path)
    done(trials, 0.1)
    done(trials, 0.3)
    running = claimed(trials)
    assert trials.next() is None
    assert trials_in(tmp_path).next() is None  # another process, while the third one runs
    trials.finish(running, Outcome("complete", 0.2))
    assert trials.next() is None
    best = trials.best()
    assert best is not None
    assert best.number == 1
    assert claimed(trials_in(tmp_path, 4)).trial.number == 3


def test_the_least_is_the_best_where_the_recipe_says_so(tmp_path: Path) -> None:
    trials = trials_in(tmp_path, sections={"search_by": {**BY, "mode": "min"}})
    for value in (0.2, 0.1, 0.3):
        done(trials, value)
    best = trials.best()
    assert best is not None
    assert best.value == 0.1


def test_what_a_dead_process_ran_is_run_again(tmp_path: Path) -> None:
    """With its settings, in its folder, and without being one trial more."""
    trials = trials_in(tmp_path)
    left, other = claimed(trials), claimed(trials)
    let_go(left.lock)  # as the end of a process does
    going_on = trials_in(tmp_path)
    again = claimed(going_on)
    assert (again.settings, again.folder) == (left.settings, left.folder)
    assert states(going_on) == ["FAIL", "RUNNING", "RUNNING"]
    going_on.finish(again, Outcome("complete", 0.5))
    trials.finish(other, Outcome("complete", 0.4))
    assert done(going_on, 0.1).folder == tmp_path / "run/trials/0003"
    assert going_on.next() is None
    assert [t.number for t in going_on.counted()] == [1, 2, 3]


def test_it_may_die_twice(tmp_path: Path) -> None:
    first = claimed(trials_in(tmp_path, 1))
    let_go(first.lock)
    second = claimed(trials_in(tmp_path, 1))
    let_go(second.lock)
    third = claimed(trials_in(tmp_path, 1))
    assert (third.settings, third.folder) == (first.settings, first.folder)


def test_a_stopped_trial_is_left_to_whoever_goes_on(tmp_path: Path) -> None:
    trials = trials_in(tmp_path)
    stopped = done(trials, None, "stopped")
    assert states(trials) == ["RUNNING"]
    assert claimed(trials_in(tmp_path)).settings == stopped.settings


def test_failures_count_and_end_a_search_that_only_fails(tmp_path: Path) -> None:
    trials = trials_in(tmp_path, 9)
    for n in range(3):
        done(trials, None, "failed", f"broken {n}")
    with pytest.raises(ConfigError, match=r"first 3 trials have failed, the last .*: broken 2"):
        trials.next()


def test_one_good_trial_is_enough_to_go_on(tmp_path: Path) -> None:
    trials = trials_in(tmp_path, 5)
    done(trials, 0.5)
    for _ in range(4):
        done(trials, None, "failed", "broken")
    assert trials.next() is None
    assert states(trials) == ["COMPLETE", *4 * ["FAIL"]]


def test_a_score_that_is_no_number_is_a_failure(tmp_path: Path) -> None:
    trials = trials_in(tmp_path)
    done(trials, float("nan"))
    assert states(trials) == ["FAIL"]
    assert trials.study.get_trials()[0].user_attrs["error"] == "its score is nan"


def test_only_one_process_claims_at_a_time(tmp_path: Path, monkeypatch) -> None:
    trials = trials_in(tmp_path)
    monkeypatch.setattr(study, "_WAIT_S", 0.1)
    with (trials.folder / ".lock").open("a") as lock:
        assert hold(lock, 0)
        with pytest.raises(OSError, match="is held for more than"):
            trials.next()
    assert states(trials) == []


@pytest.mark.parametrize("keep", [False, True])
def test_checkpoints_that_stay(tmp_path: Path, keep: bool) -> None:
    trials = trials_in(tmp_path, 9, keep=keep)
    running = claimed(trials)  # its lock is held as long as there is this name
    (running.folder / "checkpoints").mkdir(parents=True)
    for value, state in ((0.1, "complete"), (0.5, "complete"), (None, "failed"), (0.3, "pruned")):
        done(trials, value, state)
    left = {p.parent.name for p in trials.folder.glob("*/checkpoints")}
    assert left == ({"0000", "0001", "0002", "0003", "0004"} if keep else {"0000", "0002", "0003"})


def test_processes_draw_differently_and_by_the_seed(tmp_path: Path) -> None:
    drawn = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        both = [trials_in(tmp_path / name, 9, sampler="random", seed=seed) for _ in range(2)]
        claims = [claimed(trials) for trials in (*both, *both)]
        drawn[name] = [claim.settings for claim in claims]
    assert drawn["a"] == drawn["b"] != drawn["c"]
    assert len({str(one["optim.lr"]) for one in drawn["a"]}) == 4


@pytest.mark.parametrize(
    ("sampler", "pruner"), [("tpe", "halving"), ("random", "hyperband"), ("gp", "none")]
)
def test_samplers_and_pruners(tmp_path: Path, sampler: str, pruner: str) -> None:
    trials = trials_in(tmp_path, 2, sampler=sampler, pruner=pruner)
    for _ in range(2):
        claim = claimed(trials)
        claim.trial.report(0.1, 1)
        claim.trial.should_prune()
        trials.finish(claim, Outcome("complete", 0.1))
    assert states(trials) == ["COMPLETE", "COMPLETE"]


def test_the_median_prunes(tmp_path: Path) -> None:
    trials = trials_in(tmp_path, 9)
    for _ in range(5):
        claim = claimed(trials)
        claim.trial.report(0.5, 1)
        trials.finish(claim, Outcome("complete", 0.5))
    claim = claimed(trials)
    claim.trial.report(0.4, 1)
    assert claim.trial.should_prune()
    trials.finish(claim, Outcome("pruned", 0.4))
    assert trials.study.get_trials()[-1].state == TrialState.PRUNED


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"optim": {"lr": 0.1}}, "optim.lr is 0.003 there and 0.1 here"),
        ({"search": {"optim.lr": [0.1, 0.2]}}, "search.freeze is"),
        ({"search_by": {**BY, "metric": "macro_f1"}}, "search_by.metric is "),
        ({"run": {"seed": 1}}, "run.seed is 0 there and 1 here"),
    ],
)
def test_another_search_has_another_folder(tmp_path: Path, sections, message: str) -> None:
    trials_in(tmp_path)
    with pytest.raises(ConfigError, match="holds a search with other settings") as raised:
        trials_in(tmp_path, sections=sections)
    assert message in str(raised.value)
    trials_in(tmp_path, sections={"test": {"batch_size": 8}, "run": {"seed": 0}})


@pytest.mark.parametrize(("what", "near"), [("sampler", "tpe"), ("pruner", "median")])
def test_unknown_names(tmp_path: Path, what: str, near: str) -> None:
    with pytest.raises(
        ConfigError, match=f"--{what} {near}x: there is none; did you mean '{near}'"
    ):
        Trials(make_search(tmp_path), 1, **{what: f"{near}x"})
