"""Which layers of an encoder train, and from when."""

from __future__ import annotations

import re

import pytest

from mmfm.config import ConfigError, from_dict
from mmfm.train.optim import OptimConfig, frozen_until
from mmfm.train.optim.groups import freeze_parts, next_thaw, parameter_groups
from mmfm.train.optim.layers import described, layers_until
from tests import tiny

LAYERS = 3


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    raw = tiny.task_settings(tiny.make_tokenizer(tmp_path_factory.mktemp("layers") / "tokenizer"))
    raw["model"]["encoders"]["image"]["layers"] = LAYERS
    return tiny.PretrainTask.build(from_dict(tiny.PretrainTaskConfig, raw))


@pytest.fixture(autouse=True)
def all_train(task):
    task.requires_grad_(True)


def depth(name: str) -> int:
    """The image encoder's norm is made after its last layer."""
    block = re.search(r"blocks\.(\d)\.", name)
    return int(block[1]) + 1 if block else LAYERS if "transformer.norm" in name else 0


def image_names(task) -> list[str]:
    return [n for n, _ in task.named_parameters() if n.startswith("model.encoders.image.")]


@pytest.mark.parametrize("top", [1, 2, 3])
def test_only_the_last_layers_train(task, top: int) -> None:
    config = OptimConfig(top_layers={"image": top})
    freeze_parts(task, frozen_until(task, config), 10**9)
    for name, parameter in task.named_parameters():
        inside = name.startswith("model.encoders.image.")
        assert parameter.requires_grad == (not inside or depth(name) > LAYERS - top), name


def test_layers_begin_to_train_one_after_the_other(task) -> None:
    config = OptimConfig(unfreeze_every={"image": 50})
    until = frozen_until(task, config)
    starts = {3: 50, 2: 100, 1: 150, 0: 200}
    assert until == {name: starts[depth(name)] for name in image_names(task)}
    assert [next_thaw(until, s) for s in (0, 50, 199, 200)] == [50, 100, 200, None]
    freeze_parts(task, until, 100)
    trained = {n for n, p in task.named_parameters() if p.requires_grad}
    assert {depth(name) for name in trained.intersection(image_names(task))} == {2, 3}
    groups = parameter_groups(task, weight_decay=0.1, freeze=until)
    assert {group["since"] for group in groups} == {0, 50, 100}


def test_both_together_and_with_freeze(task) -> None:
    """What lies below the top never trains; other settings of the encoder hold for the rest."""
    config = OptimConfig(
        top_layers={"image": 2},
        unfreeze_every={"image": 50},
        freeze={"model.encoders": 70, "model.fusion": 30},
    )
    until = frozen_until(task, config)
    starts = {3: 50, 2: 100, 1: "always", 0: "always"}
    for name in image_names(task):
        assert until[name] == starts[depth(name)], name
    freeze_parts(task, until, 60)
    for name, parameter in task.named_parameters():
        if name.startswith("model.encoders."):
            assert parameter.requires_grad == (name in until and until[name] == 50), name


def test_the_plan_tells_the_layers(task) -> None:
    assert described(task, {"image": 2}, {}) == [
        "image: layer 3, 2 from step 0; 1, those before never"
    ]
    assert described(task, {"image": 2}, {"image": 50, "text": 7}) == [
        "image: layer 3 from step 50; 2 from step 100; 1, those before never",
        "text: layer 1 from step 7; those before from step 14",
    ]
    assert described(task, {}, {}) == []


def test_what_does_not_fit_is_an_error(task) -> None:
    with pytest.raises(ConfigError, match=r"optim\.top_layers: image = 4, but .* 3 layers"):
        layers_until(task, {"image": 4}, {})
    with pytest.raises(ConfigError, match=r"optim\.unfreeze_every: the model has no encoder of 'v"):
        layers_until(task, {}, {"video": 4})
    task.model.encoder("image").frozen = True
    try:
        with pytest.raises(ConfigError, match=r"optim\.top_layers: the encoder of 'image' is fro"):
            layers_until(task, {"image": 1}, {})
    finally:
        task.model.encoder("image").frozen = False
