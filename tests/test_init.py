"""What `import mmfm` offers: `load` and `build`, and nothing heavy before they are called."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import mmfm
from mmfm.checkpoint import CheckpointError
from mmfm.config import ConfigError
from mmfm.task import FinetuneTask, PretrainTask
from mmfm.types import Label
from tests import tiny
from tests.eval.tiny_checkpoint import SHAPES, make_checkpoint


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    return tiny.make_tokenizer(tmp_path_factory.mktemp("init") / "tokenizer")


def test_load(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, head=True)
    predictor = mmfm.load(tmp_path, "cpu")
    assert predictor.device == torch.device("cpu")
    assert predictor.label == Label("shape", SHAPES)
    assert predictor.encode(text=["a red dot"])["text"].shape == (1, 16)
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        mmfm.load(tmp_path / "nowhere")


def test_build_from_a_file_a_mapping_and_a_whole_recipe(tokenizer, tmp_path: Path) -> None:
    settings = tiny.task_settings(tokenizer)
    path = tmp_path / "recipe.yaml"
    # The other sections of a recipe belong to the trainer.
    recipe = {"run": {"dir": "x"}, "data": {"any": "thing"}, **settings}
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    found = []
    for config in (settings, path, str(path)):
        torch.manual_seed(0)
        found.append(mmfm.build(config))
    for task in found:
        assert isinstance(task, PretrainTask)
        assert isinstance(task, torch.nn.Module)
        for name, weight in task.state_dict().items():
            assert torch.equal(weight, found[0].state_dict()[name])


def test_overrides_leave_the_given_mapping_alone(tokenizer) -> None:
    settings = tiny.task_settings(tokenizer)
    before = copy.deepcopy(settings)
    task = mmfm.build(
        settings,
        ["model.embed_dim=8", "objectives.masked_audio=null", "objectives.contrastive.weight=2"],
    )
    assert task.model.embed_dim == 8
    assert "masked_audio" not in task.objectives
    assert task.weights["contrastive"] == 2.0
    assert settings == before


def test_build_with_a_head(tokenizer) -> None:
    settings = tiny.task_settings(tokenizer)
    del settings["objectives"]
    settings["head"] = {"type": "classification", "label": "shape"}
    task = mmfm.build(settings, label_names=SHAPES)
    assert isinstance(task, FinetuneTask)
    assert task.head.label_names == SHAPES
    with pytest.raises(ConfigError, match="label 'shape' has 0 name"):
        mmfm.build(settings)


def test_bad_recipes(tokenizer) -> None:
    settings = tiny.task_settings(tokenizer)
    with pytest.raises(ConfigError, match="model is required"):
        mmfm.build({"objectives": settings["objectives"]})
    with pytest.raises(ConfigError, match="objectives is required"):
        mmfm.build({"model": settings["model"]})
    with pytest.raises(ConfigError, match=r"unknown key model\.embed_dims; did you mean"):
        mmfm.build(settings, ["model.embed_dims=3"])
    with pytest.raises(ConfigError, match="there is no configuration file"):
        mmfm.build("no/such/recipe.yaml")


def test_a_loop_of_ones_own_learns(tokenizer) -> None:
    """As the module's docstring of `mmfm.task` shows it, with any optimiser."""
    torch.manual_seed(0)
    task = mmfm.build(tiny.task_settings(tokenizer))
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    batch = task.prepare(tiny.make_batch(0))
    losses = []
    for _ in range(12):
        loss = task.total(task(batch).losses, task.counts(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_importing_is_cheap_and_building_needs_no_deepspeed() -> None:
    code = (
        "import sys, mmfm; assert 'torch' not in sys.modules; assert mmfm.__version__;"
        "import mmfm.task, mmfm.predictor; assert 'deepspeed' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
