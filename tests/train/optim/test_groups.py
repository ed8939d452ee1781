"""Groups of parameters: decay, learning rates by part and by layer, what is frozen until when."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmfm.config import ConfigError, from_dict
from mmfm.train.optim.groups import check_freeze, freeze_parts, next_thaw, parameter_groups, thawed
from tests import tiny


def net() -> nn.Module:
    parts = {"embed": nn.Embedding(7, 4), "linear": nn.Linear(4, 1), "norm": nn.LayerNorm(4)}
    module = nn.ModuleDict(parts)
    module.register_parameter("log_scale", nn.Parameter(torch.zeros(1)))
    module.register_parameter("token", nn.Parameter(torch.zeros(1, 1, 4)))
    module.register_parameter("position", nn.Parameter(torch.zeros(1, 5, 4)))
    return module


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    return tiny.make_tokenizer(tmp_path_factory.mktemp("groups") / "tokenizer")


def by_name(module: nn.Module, key: str, **settings) -> dict[str, float]:
    names = {id(p): n for n, p in module.named_parameters()}
    groups = parameter_groups(module, **{"weight_decay": 0.3, **settings})
    keys = [(g["weight_decay"], g["lr_factor"], g["since"]) for g in groups]
    assert len(set(keys)) == len(keys)
    return {names[id(p)]: g[key] for g in groups for p in g["params"]}


def test_matrices_decay_and_vectors_and_tokens_do_not() -> None:
    module = net()
    module["norm"].weight.requires_grad_(False)
    assert by_name(module, "weight_decay") == {
        "embed.weight": 0.3,
        "linear.weight": 0.3,
        "position": 0.3,
        "log_scale": 0.0,
        "linear.bias": 0.0,
        "norm.bias": 0.0,
        "token": 0.0,
    }


def test_an_empty_group_is_left_out() -> None:
    module = nn.Linear(2, 2, bias=False)
    assert [g["weight_decay"] for g in parameter_groups(module, weight_decay=0.1)] == [0.1]


def test_the_longest_part_that_fits_gives_the_factor(tokenizer: str) -> None:
    task = tiny.make_task(tokenizer)
    factors = {"model": 0.5, "model.encoders.text": 0.1, "model.encoders.text.embedding": 3.0}
    for name, factor in by_name(task, "lr_factor", lr_factors=factors).items():
        want = 1.0 if name.startswith("objectives.") else 0.5
        if name.startswith("model.encoders.text."):
            want = 3.0 if name.startswith("model.encoders.text.embedding.") else 0.1
        assert factor == want, name


@pytest.mark.parametrize("setting", ["lr_factors", "freeze"])
def test_an_unknown_part_is_an_error_with_the_nearest(tokenizer: str, setting: str) -> None:
    task = tiny.make_task(tokenizer)
    message = rf"optim\.{setting}: .*'model\.encoders\.txt'; near: .*model\.encoders\.text"
    with pytest.raises(ConfigError, match=message):
        parameter_groups(task, weight_decay=0.0, **{setting: {"model.encoders.txt": 2}})
    # The front of a name is no part of it.
    with pytest.raises(ConfigError, match=r"'model\.encoders\.te'"):
        parameter_groups(task, weight_decay=0.0, **{setting: {"model.encoders.te": 2}})


def test_layers_of_own_encoders(tokenizer: str) -> None:
    raw = tiny.task_settings(tokenizer)
    raw["model"]["encoders"]["image"]["layers"] = 3
    task = tiny.PretrainTask.build(from_dict(tiny.PretrainTaskConfig, raw))
    found = by_name(task, "lr_factor", layer_decay={"image": 0.5}, lr_factors={"model": 10.0})
    for name, factor in found.items():
        image = name.removeprefix("model.encoders.image.")
        want = 10.0 if name.startswith("model.") else 1.0
        if image != name:
            depth = 3 if image.startswith("transformer.norm.") else 0
            if image.startswith("transformer.blocks."):
                depth = int(image.split(".")[2]) + 1
            want *= 0.5 ** (4 - depth)
        assert factor == want, name


def test_layer_decay_of_what_has_none_is_an_error(tokenizer: str) -> None:
    task = tiny.make_task(tokenizer)
    with pytest.raises(ConfigError, match=r"optim\.layer_decay: the model has no encoder of 'vid"):
        parameter_groups(task, weight_decay=0.0, layer_decay={"video": 0.5})
    task.model.encoders["image"].transformer = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="the encoder of 'image' has no layers"):
        parameter_groups(task, weight_decay=0.0, layer_decay={"image": 0.5})


# ------------------------------------------------------------------------------ freezing


FREEZE = {"model": 4, "model.fusion": 2, "model.encoders.text": "always", "model.projections": 0}


@pytest.mark.parametrize(
    ("step", "more"),
    [
        (0, ()),
        (2, ("model.fusion",)),
        (4, ("model.fusion", "model.encoders.image", "model.encoders.audio")),
    ],
)
def test_what_trains_when(tokenizer: str, step: int, more: tuple[str, ...]) -> None:
    trained = ("model.projections", "objectives", *more)
    task = tiny.make_task(tokenizer)
    freeze_parts(task, FREEZE, step)
    for name, parameter in task.named_parameters():
        assert parameter.requires_grad == any(name.startswith(f"{part}.") for part in trained), name
    since = by_name(task, "since", freeze=FREEZE)
    for name, found in since.items():
        want = 2 if name.startswith("model.fusion") else 4 if "encoders" in name else 0
        assert found == want, name
    new = {0: (), 2: ("model.fusion.",), 4: ("model.encoders.",)}[step]
    assert thawed(task, FREEZE, step) == {n for n in since if n.startswith(new or "-")}


def test_when_the_next_part_thaws() -> None:
    assert [next_thaw(FREEZE, step) for step in (0, 1, 2, 3, 4)] == [2, 2, 4, 4, None]


def test_freezing_what_is_frozen_already_is_an_error(tokenizer: str) -> None:
    task = tiny.make_task(tokenizer)
    task.model.encoders["text"].requires_grad_(False)
    with pytest.raises(ConfigError, match=r"all of model\.encoders\.text is frozen for good"):
        check_freeze(task, {"model.encoders.text": 5})
