"""What is searched: from YAML to settings, and what can't be searched."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
import yaml

from mmfm.config import ConfigError
from mmfm.train.recipe import load_finetune
from mmfm.tune.space import Choices, Range, Search, as_overrides, read_search
from tests.tiny_heads import COLOUR, recipe
from tests.tiny_runs import pretrain

BY = {"task": "colour", "metric": "accuracy"}
LR = {"optim.lr": {"low": "1e-4", "high": 1e-2, "log": True}}


def search_of(folder: Path, search: object, *overrides: str, **sections) -> Search:
    path = Path(recipe(folder, Path("data"), **sections))
    raw = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**raw, "search": search, "search_by": BY}))
    return read_search(path, overrides)


def test_ranges_and_choices(tmp_path: Path) -> None:
    search = search_of(
        tmp_path,
        {
            **LR,
            "optim.warmup_steps": {"low": 0, "high": 4, "step": 2},
            "model": {"encoders.image.drop_path": [0.0, 0.1], "embed_dim": {"low": 8, "high": 16}},
            "head.modalities": [["image"], ["image", "text"]],
        },
        "search.run.seed={low: 1, high: 2}",
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [search.suggest(study.ask()) for _ in range(60)]
    seen = {name: {str(one[name]) for one in drawn} for name in search.space}
    assert seen.pop("optim.warmup_steps") == {"0", "2", "4"}
    assert seen.pop("model.encoders.image.drop_path") == {"0.0", "0.1"}
    assert seen.pop("model.embed_dim") == {str(n) for n in range(8, 17)}
    assert seen.pop("head.modalities") == {"['image']", "['image', 'text']"}
    assert seen.pop("run.seed") == {"1", "2"}
    assert list(seen) == ["optim.lr"]
    rates = [one["optim.lr"] for one in drawn]
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert 20 <= sum(rate < 1e-3 for rate in rates) <= 40  # the middle of its logarithm
    again = search.suggest(optuna.trial.FixedTrial(study.trials[0].params))
    assert again == drawn[0]


def test_whole_numbers_by_logarithm_and_steps_between() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    width, share = Range(low=1, high=4096, log=True), Range(low=0.0, high=0.5, step=0.25)
    drawn = []
    for _ in range(60):
        trial = study.ask()
        drawn.append((width.suggest(trial, "width"), share.suggest(trial, "share")))
    assert 20 <= sum(one < 64 for one, _ in drawn) <= 40
    assert {other for _, other in drawn} == {0.0, 0.25, 0.5}


def test_false_is_not_0_nor_true_1() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [Choices((0, False, 1, True)).suggest(study.ask(), "one") for _ in range(40)]
    assert {str(value) for value in drawn} == {"0", "False", "1", "True"}


def test_how_they_are_shown() -> None:
    assert str(Range(low=1e-5, high=0.1, log=True)) == "1e-05 to 0.1, log"
    assert str(Range(low=0, high=20, step=10)) == "0 to 20 in steps of 10"
    assert str(Choices((True, "a", ["b"]))) == 'true, "a", ["b"]'


def test_the_recipe_of_a_trial(tmp_path: Path) -> None:
    place = {"sources": {"a": {"path": "p"}}, "tasks": {"final": COLOUR}}
    search = search_of(tmp_path, LR, test=place, train={"patience": 2, "keep_best": BY})
    settings = {"optim.lr": 0.005, "train.keep_best.mode": "min", "freeze": "none"}
    raw = search.of_trial(settings, tmp_path / "trials/0003")
    assert raw["test"] == {}
    assert raw["run"] == {"dir": str(tmp_path / "trials/0003"), "trackers": [], "resume": "auto"}
    assert (raw["optim"]["lr"], raw["freeze"]) == (0.005, "none")
    assert search.recipe["optim"]["lr"] == 3e-3
    assert "search" not in raw
    chosen_by = search.compared_by(settings)
    assert chosen_by is not None
    assert chosen_by.mode == "min"
    assert search_of(tmp_path, LR).compared_by({}) is None


def test_a_recipe_with_a_search_runs_as_it_stands(tmp_path: Path) -> None:
    search_of(tmp_path, LR)
    assert load_finetune(tmp_path / "recipe.yaml").optim.lr == 3e-3


def test_pretraining_is_searched_by_its_own_command(tmp_path: Path, synthetic: Path) -> None:
    _, path, *words = pretrain(synthetic, tmp_path / "run")
    both = "modality: image, train: held_out, test: held_out"
    task = f"eval.tasks={{near: {{type: knn, label: shape, {both}}}}}"
    by = "search_by={task: near, metric: accuracy}"
    search = read_search(path, [*words, task, by, "search={optim.lr: [0.1, 0.2]}"])
    assert search.command == "pretrain"


def test_overrides_to_copy(tmp_path: Path) -> None:
    words = as_overrides({"optim.lr": 1e-3, "freeze": "none", "head.modalities": ["image"]})
    assert words == ["optim.lr=0.001", 'freeze="none"', 'head.modalities=["image"]']
    search_of(tmp_path, LR)
    assert load_finetune(tmp_path / "recipe.yaml", words).freeze == "none"


def test_keep_best_says_which_score(tmp_path: Path) -> None:
    path = recipe(tmp_path, Path("data"), search=LR, train={"keep_best": {**BY, "mode": "min"}})
    assert read_search(path).by.mode == "min"


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (None, "search: name the settings"),
        ({}, "search: name the settings"),
        ({"optim.lr": 0.1}, "search.optim.lr = 0.1: a list, or {low"),
        ({"optim.lr": {"low": 1.0}}, "search.optim.lr.high is required"),
        ({"optim.lr": {"low": 1.0, "high": 0.1}}, "search.optim.lr: low = 1.0 must be below"),
        ({"optim.lr": {"low": 0.1, "high": 0.1}}, "search.optim.lr: low = 0.1 must be below"),
        ({"optim.lr": {"low": 0.0, "high": 0.1, "log": True}}, "log needs a low above 0"),
        ({"optim.ema.decay": {"low": 0.5, "high": 1.0}}, "search.optim.ema.decay = 1.0: optim.ema"),
        ({"optim.lr": {"low": 0.1, "high": 0.2, "step": 0}}, "step = 0 must be above 0"),
        ({"optim.lr": [0.1]}, "search.optim.lr = [0.1]: at least two choices"),
        ({"optim.learning_rate": [0.1, 0.2]}, "unknown key optim.learning_rate"),
        ({"optim.lr": [0.1, -1.0]}, "search.optim.lr = -1.0: optim: lr"),
        ({"freeze": ["none", "all"]}, "search.freeze = 'all': freeze = 'all'"),
        ({"run.dir": ["a", "b"]}, "search.run.dir: that is nothing to be searched"),
        ({"run.resume": ["auto", "never"]}, "search.run.resume: that is nothing to be searched"),
        ({"test.batch_size": [1, 2]}, "nothing to be searched"),
    ],
)
def test_what_cannot_be_searched(tmp_path: Path, search, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        search_of(tmp_path, search)
    assert message in str(raised.value)


def test_a_score_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"search_by: name the task and the metric"):
        read_search(recipe(tmp_path, Path("data"), search=LR))
    path = recipe(tmp_path, Path("data"), search=LR, search_by={**BY, "task": "color"})
    with pytest.raises(ConfigError, match=r"search_by\.task = 'color' .* did you mean 'colour'"):
        read_search(path)
