"""What `mmfm.testing` finds wrong."""

from __future__ import annotations

import pytest
import torch

from mmfm import testing
from mmfm.objectives.base import Objective
from mmfm.task import Task
from tests import tiny


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.make_tokenizer(tmp_path_factory.mktemp("testing") / "tokenizer")


class Wrong(Objective):
    """Counts one sample too many where there is sound, and has no sum where there is no text."""

    def __init__(self, inner: Objective) -> None:
        super().__init__()
        self.inner, self.reads = inner, inner.reads

    def counts(self, batch, masks):
        return {k: n + ("audio" in batch) for k, n in self.inner.counts(batch, masks).items()}

    def forward(self, features, batch):
        terms = self.inner(features, batch)
        nothing = torch.tensor(0.0 if "text" in batch else torch.nan)
        return {k: (total + nothing, count) for k, (total, count) in terms.items()}


def test_the_counts_of_mmfms_own_are_right(tokenizer) -> None:
    assert testing.count_problems(tiny.make_task(tokenizer), tiny.make_batch(0)) == []


def test_wrong_counts_and_sums_are_named(tokenizer) -> None:
    right = tiny.make_task(tokenizer)
    task = Task(right.model, {"mine": (Wrong(right.objectives["contrastive"]), 1.0)})
    found = testing.count_problems(task, tiny.make_batch(0))
    assert "mine/image_text: 25 in `counts`, 24 in the loss" in found
    assert "without text: mine/image_text: a sum of nan over 0" in found
    assert not any(problem.startswith("without audio: ") for problem in found)


def test_steps_that_differ_are_named() -> None:
    want = [{"step": 1, "batch_hash": "a", "x_loss": 2.0, "grad_norm": 1.0, "eta_s": 5.0}]
    near = [{**want[0], "x_loss": 2.0001, "eta_s": 9.0}]
    assert list(testing._compare("split", near, want)) == []
    off = [{**want[0], "x_loss": 2.001, "grad_norm": float("nan"), "batch_hash": "b"}]
    assert list(testing._compare("split", off, want)) == [
        "step 1 split: other samples",
        "step 1 split: x_loss is 2.001, not 2",
        "step 1 split: grad_norm is nan, not 1",
    ]


def test_nothing_is_left_in_a_recipe_that_differs_by_split() -> None:
    encoder = {"type": "x", "dropout": 0.1, "drop_path": 0.1}
    recipe = {
        "run": {"dir": "a", "resume": "auto"},
        "train": {"max_steps": 1000, "precision": "bf16", "keep_best": {"metric": "x"}},
        "optim": {"type": "adamw", "lr": 1e-3, "ema": {"decay": 0.9}},
        "model": {"encoders": {"image": encoder}},
        "eval": {"tasks": {"a": {}}},
    }
    plain = testing._plain(recipe)
    assert plain["model"]["encoders"]["image"] == {"type": "x", "dropout": 0.0, "drop_path": 0.0}
    assert (plain["train"]["max_steps"], plain["train"]["precision"]) == (testing.STEPS, "fp32")
    assert (plain["optim"]["type"], plain["optim"]["ema"], plain["eval"]) == ("sgd", None, {})


def test_a_recipe_that_cant_be_run_is_a_problem(tmp_path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "a.yaml").write_text("{data: 1}")
    assert testing.main([str(tmp_path / "a.yaml")]) == 1
    assert "1 problems" in capsys.readouterr().out
