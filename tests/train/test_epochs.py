"""`train.epochs` gives the number of steps before anything depends on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mmfm.config import ConfigError, dump
from mmfm.train.recipe import PretrainConfig, load_pretrain
from tests.data.make_shards import files_of, write_set


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """60 samples with a modality and one without, in batches of 8."""
    folder = tmp_path_factory.mktemp("epochs")
    samples = [(f"s{n:05d}", files_of(n, "image" if n < 60 else "")) for n in range(61)]
    data = write_set(folder / "data", [samples])
    raw = {
        "run": {"dir": "x"},
        "data": {"sources": {"a": {"path": str(data)}}, "global_batch_size": 8},
        "model": {"encoders": {"image": {"type": "vision_transformer"}}},
        "objectives": {"c": {"type": "contrastive", "start_step": 5}},
        "optim": {"warmup_steps": 3, "decay_steps": 2, "schedule": "wsd"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def load(recipe: Path, *overrides: str) -> PretrainConfig:
    return load_pretrain(recipe, overrides)


@pytest.mark.parametrize(("epochs", "steps"), [("1", 8), ("2", 15), ("0.8", 6), ("10", 75)])
def test_steps_of_epochs(recipe: Path, epochs: str, steps: int) -> None:
    assert load(recipe, f"train.epochs={epochs}").train.max_steps == steps


def test_all_sources_count_and_only_their_parts(recipe: Path) -> None:
    path = yaml.safe_load(recipe.read_text())["data"]["sources"]["a"]["path"]
    second = f"data.sources.b.path={path}"
    assert load(recipe, "train.epochs=2", second).train.max_steps == 30
    half = "data.sources.b.subset.share=0.5"
    assert load(recipe, "train.epochs=2", second, half).train.max_steps in (22, 23)


def test_schedules_know_the_steps(recipe: Path) -> None:
    with pytest.raises(ConfigError, match=r"5 steps together, more than train\.max_steps = 4"):
        load(recipe, "train.epochs=0.5", "objectives.c.start_step=0")
    with pytest.raises(ConfigError, match=r"start_step = 5.*train\.max_steps = 5"):
        load(recipe, "train.epochs=0.6")


def test_the_written_recipe_is_the_same_run(recipe: Path, tmp_path: Path) -> None:
    """It names both, the epochs and the steps that they are."""
    first = load(recipe, "train.epochs=3")
    (tmp_path / "config.yaml").write_text(dump(first))
    assert load(tmp_path / "config.yaml") == first
    with pytest.raises(ConfigError, match=r"epochs = 4 is 30 steps \(60 samples in batches of 8\)"):
        load(tmp_path / "config.yaml", "train.epochs=4")
    longer = load(tmp_path / "config.yaml", "train.epochs=4", "train.max_steps=null")
    assert longer.train.max_steps == 30


@pytest.mark.parametrize("epochs", ["0", "-1", "true", "many", ".inf", ".nan"])
def test_epochs_that_are_none(recipe: Path, epochs: str) -> None:
    with pytest.raises(ConfigError, match=r"train\.epochs = .*: a number above 0 is needed"):
        load(recipe, f"train.epochs={epochs}")


def test_epochs_of_no_data(recipe: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.sources\.a: there is no data at /nowhere"):
        load(recipe, "train.epochs=1", "data.sources.a={path: /nowhere, splits: [a]}")
    with pytest.raises(ConfigError, match=r"data\.global_batch_size = 0"):
        load(recipe, "train.epochs=1", "data.global_batch_size=0")
