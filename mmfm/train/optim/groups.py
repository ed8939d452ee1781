"""Which parameters train, in groups of equal weight decay and learning rate.

    optim:
      lr_factors: {model.encoders.text: 0.1, objectives: 2.0}
      freeze: {model.encoders.text: 500, model.encoders.audio: always}

`lr_factors` and `freeze` name parts by the front of their parameters' dotted names; the longest
that fits counts. A group's `lr_factor` multiplies the schedule's learning rate in every step.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from torch import nn

from mmfm.config import ConfigError
from mmfm.train.optim.layers import Until, layer_factors

T = TypeVar("T")
Freeze = Mapping[str, Until]


def parameter_groups(
    task: nn.Module,
    *,
    weight_decay: float,
    lr_factors: Mapping[str, float] | None = None,
    layer_decay: Mapping[str, float] | None = None,
    freeze: Freeze | None = None,
    l2_sp: float = 0.0,
) -> list[dict[str, Any]]:
    """The trainable parameters in groups with ``weight_decay``, ``lr_factor``, ``l2_sp`` and
    ``since``, the step from which they train.

    Matrices decay (tables of words and positions too, as in open_clip), vectors and tokens don't:
    norms, biases, the temperature. With `layer_decay` d, an encoder of n layers has the factor
    d^(n + 1 - depth) at each depth, as in BEiT (arXiv:2106.08254), whose head is here all that
    stands behind the encoder. `l2_sp`
    is for all weights of the model, which then don't decay; what is learnt on top of it does.

    Raises:
        ConfigError: for a part, or an encoder, that isn't there.
    """
    lr_factors, freeze = lr_factors or {}, freeze or {}
    names = [name for name, _ in task.named_parameters()]
    check_parts("optim.lr_factors", lr_factors, names)
    check_parts("optim.freeze", freeze, names)
    by_layer = layer_factors(task, layer_decay or {})
    groups: dict[tuple[float, float, float, int], dict[str, Any]] = {}
    for name, parameter in task.named_parameters():
        if not parameter.requires_grad:
            continue
        pull = l2_sp if _within(name, "model") else 0.0
        decay = weight_decay if is_matrix(parameter) and not pull else 0.0
        factor = by_layer.get(name, 1.0) * (of_part(lr_factors, name) or 1.0)
        since = of_part(freeze, name) or 0
        assert isinstance(since, int), "freeze_parts comes first"
        key = (decay, pull, factor, since)
        settings = {"weight_decay": decay, "l2_sp": pull, "lr_factor": factor, "since": since}
        groups.setdefault(key, {"params": [], **settings})["params"].append(parameter)
    return list(groups.values())


def freeze_parts(task: nn.Module, freeze: Freeze, step: int) -> None:
    """Take the gradient from what is frozen in `step`; a frozen part stays in training mode."""
    for name, parameter in task.named_parameters():
        until = of_part(freeze, name)
        if until is not None and not (isinstance(until, int) and step >= until):
            parameter.requires_grad_(False)


def check_freeze(task: nn.Module, freeze: Freeze) -> None:
    """ConfigError for a part that isn't there, or that its own settings freeze for good."""
    check_parts("optim.freeze", freeze, [name for name, _ in task.named_parameters()])
    trained = [name for name, p in task.named_parameters() if p.requires_grad]
    for part in freeze:
        if not any(_within(name, part) for name in trained):
            raise ConfigError(
                f"optim.freeze: all of {part} is frozen for good already, by settings of its own"
            )


def next_thaw(freeze: Freeze, step: int) -> int | None:
    """The first step after `step` in which a part begins to train; None where none does."""
    return min((s for s in freeze.values() if isinstance(s, int) and s > step), default=None)


def thawed(task: nn.Module, freeze: Freeze, step: int) -> set[str]:
    """The trainable parameters for which `step` is the first in which they train, and not the
    run's first.
    """
    trainable = [name for name, p in task.named_parameters() if p.requires_grad]
    return {name for name in trainable if step > 0 and of_part(freeze, name) == step}


def of_part(settings: Mapping[str, T], name: str) -> T | None:
    """The setting of the longest part that `name` lies in."""
    parts = [part for part in settings if _within(name, part)]
    return settings[max(parts, key=len)] if parts else None


def check_parts(where: str, parts: Iterable[str], names: Iterable[str]) -> None:
    """ConfigError for a part that no parameter lies in; it names the nearest ones."""
    known: dict[str, None] = {}
    for name in names:
        words = name.split(".")
        known |= dict.fromkeys(".".join(words[: i + 1]) for i in range(len(words)))
    for part in parts:
        if part not in known:
            near = difflib.get_close_matches(part, known, n=3, cutoff=0.4)
            top = [name for name in known if name.count(".") < 2]
            raise ConfigError(f"{where}: there is no part {part!r}; near: {', '.join(near or top)}")


def is_matrix(parameter: nn.Parameter) -> bool:
    """False for vectors, and for the tokens [1,1,D] that timm's models hold."""
    long = sum(size > 1 for size in getattr(parameter, "ds_shape", parameter.shape))
    return parameter.ndim == 2 or (parameter.ndim > 2 and long > 1)


def _within(name: str, part: str) -> bool:
    return f"{name}.".startswith(f"{part}.")
