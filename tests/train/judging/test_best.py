"""A run that doesn't get better is done, now and when it is started again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmfm import checkpoint, cli
from mmfm.train.judging.best import KeepBest, Patience
from mmfm.train.log import read_metrics
from mmfm.train.trainer import TrainConfig
from tests.tiny_heads import accuracy, recipe

NAMES = KeepBest(task="names", metric="R@1")


def scores(value: float) -> dict[str, list[SimpleNamespace]]:
    return {"names": [SimpleNamespace(name="R@1", value=value)], "other": []}


def steps_until_over(patience: Patience, values: list[float]) -> int | None:
    for step, value in enumerate(values, 1):
        patience.add(scores(value))
        if patience.over:
            return step
    return None


@pytest.mark.parametrize(
    ("mode", "limit", "values", "over"),
    [
        ("max", 2, [0.1, 0.2, 0.2, 0.1], 4),  # equal is not better
        ("max", 2, [0.1, 0.2, 0.1, 0.3, 0.1], None),
        ("min", 1, [3.0, 2.0, 2.5], 3),
        ("max", 2, [math.nan, 0.1, math.nan, math.nan], 4),
        ("max", 2, [math.nan, math.nan], 2),
        ("max", None, [0.3, 0.2, 0.1, 0.0], None),
    ],
)
def test_when_it_is_over(tmp_path: Path, mode, limit, values, over) -> None:
    by = KeepBest(task="names", metric="R@1", mode=mode)
    assert steps_until_over(Patience(limit, by, tmp_path, 0), values) == over


def test_the_first_of_the_best_steps() -> None:
    values = {30: 0.5, 20: 0.5, 10: math.nan, 40: 0.3, 50: 0.3}
    assert NAMES.best_step(values) == 20
    assert KeepBest(task="names", metric="R@1", mode="min").best_step(values) == 40
    assert NAMES.best_step({10: math.nan}) is None


def test_what_was_before_counts(tmp_path: Path) -> None:
    """Up to the step, without step 0, by the last line of a step that was run again."""
    about = {"split": "eval", "task": "names", "metric": "R@1"}
    told = [(0, 0.9), (10, 0.9), (20, 0.4), (10, 0.5), (20, 0.4), (30, 0.3), (40, 0.6)]
    rows = [{"step": step, **about, "value": value} for step, value in told]
    rows += [{"step": 15, **about, **other, "value": 1.0} for other in ({"split": "test"},)]
    rows += [{"step": 15, **about, "task": "other", "value": 1.0}, {"event": "resume", "step": 1}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    counted = {
        step: (patience.best, patience.without)
        for step in (5, 10, 25, 30, 40)
        for patience in [Patience(2, NAMES, tmp_path, step)]
    }
    assert counted == {5: (None, 0), 10: (0.5, 0), 25: (0.5, 1), 30: (0.5, 2), 40: (0.6, 0)}


@pytest.mark.parametrize("settings", [{"patience": 2}, {"patience": 0, "keep_best": NAMES}])
def test_patience_needs_a_score(settings) -> None:
    with pytest.raises(ValueError, match=f"patience = {settings['patience']} needs a positive"):
        TrainConfig(**settings)


BEST = {"keep_best": {"task": "colour", "metric": "accuracy"}}


def test_a_run_stops_early_once(synthetic: Path, tmp_path: Path, capfd) -> None:
    """Without learning no evaluation after the first is better."""
    train = {"max_steps": 20, "eval_every": 2, "save_every": 20, "patience": 2, **BEST}
    words = ["finetune", recipe(tmp_path, synthetic, optim={"lr": 1e-12}, train=train)]
    run = tmp_path / "run"
    assert cli.main(words) == 0
    assert list(accuracy(run)) == [0, 2, 4, 6]
    assert "done after step 6: the last 2 evaluations are no better than" in capfd.readouterr().err
    newest = checkpoint.latest(run / "checkpoints")
    assert newest is not None
    assert newest.name == "step_00000006"
    best = checkpoint.best(run / "checkpoints")
    assert best is not None
    assert best["checkpoint"] == "step_00000002"
    events = [r for r in read_metrics(run / "metrics.jsonl") if r.get("event") == "early_stop"]
    assert [(r["step"], r["best"]) for r in events] == [(6, accuracy(run)[2])]

    assert cli.main(words) == 0
    said = capfd.readouterr().err
    assert f"{run}: done already (6 steps)" in said
    assert f"the best checkpoint is {run / 'checkpoints/best'}: step_00000002, colour acc" in said
    assert list(accuracy(run)) == [0, 2, 4, 6]

    assert cli.main([*words, "train.patience=3"]) == 0
    assert list(accuracy(run)) == [0, 2, 4, 6, 8]


def test_a_misspelt_metric_is_told_before_the_first_step(
    synthetic: Path, tmp_path: Path, capfd
) -> None:
    (tmp_path / "run").mkdir()
    train = {"keep_best": {"task": "colour", "metric": "acuracy"}}
    assert cli.main(["finetune", recipe(tmp_path, synthetic, train=train)]) == 2
    assert "keep_best.metric = 'acuracy' is no metric of eval.tasks.colour; did you mean" in (
        capfd.readouterr().err
    )
    assert {row["step"] for row in read_metrics(tmp_path / "run/metrics.jsonl")} == {0}
