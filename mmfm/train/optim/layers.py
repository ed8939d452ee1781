"""An encoder layer by layer: learning rates that fall with the depth, the last layers that alone
train, and layers that begin to train one after the other.

    optim:
      layer_decay: {image: 0.75}
      top_layers: {text: 2}
      unfreeze_every: {text: 50}

Layers are counted as `Encoder.depths` does: 1 is the first, 0 what stands before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any, Literal

from torch import nn

from mmfm.config import ConfigError

Until = int | Literal["always"]
"""The step from which something trains; "always": it is frozen in all of them."""


def layer_factors(task: nn.Module, layer_decay: Mapping[str, float]) -> dict[str, float]:
    """Parameter ▶ the factor d^(n + 1 - depth) on its learning rate, for encoders with a decay d by
    modality; ConfigError for one that isn't there or has no layers.
    """
    return {
        name: layer_decay[modality] ** (top + 1 - depth)
        for modality, name, depth, top in _layers(task, layer_decay, "layer_decay")
    }


def layers_until(
    task: nn.Module, top_layers: Mapping[str, int], unfreeze_every: Mapping[str, int]
) -> dict[str, Until]:
    """Parameter ▶ until when its layer is frozen: for ever below the last n of `top_layers`; with
    `unfreeze_every` s steps, the last layer until step s, the one before it until 2·s, and so on
    (gradual unfreezing, Howard and Ruder 2018, arXiv:1801.06146).

    Raises:
        ConfigError: for an encoder that isn't there, is frozen, or has fewer layers.
    """
    until: dict[str, Until] = {}
    for modality, name, depth, top in _layers(task, unfreeze_every, "unfreeze_every"):
        until[name] = unfreeze_every[modality] * (top - depth + 1)
    for modality, name, depth, top in _layers(task, top_layers, "top_layers"):
        if top_layers[modality] > top:
            raise ConfigError(
                f"optim.top_layers: {modality} = {top_layers[modality]}, but its encoder has "
                f"{top} layers"
            )
        if depth <= top - top_layers[modality]:
            until[name] = "always"
    for setting, modalities in (("top_layers", top_layers), ("unfreeze_every", unfreeze_every)):
        for modality in modalities:
            if _encoder(task, modality, setting).frozen:
                raise ConfigError(f"optim.{setting}: the encoder of {modality!r} is frozen already")
    return until


def described(
    task: nn.Module, top_layers: Mapping[str, int], unfreeze_every: Mapping[str, int]
) -> list[str]:
    """For each encoder whose layers don't all train from the start, which do when."""
    until = layers_until(task, top_layers, unfreeze_every)
    lines = []
    for modality in {**top_layers, **unfreeze_every}:
        when: dict[int, Until] = {}
        for _, name, depth, _ in _layers(task, [modality], "top_layers"):
            when[depth] = until.get(name, 0)
        told = []
        for step, depths in groupby(sorted(when, reverse=True), when.__getitem__):
            numbers = ", ".join("those before" if d == 0 else str(d) for d in depths)
            told.append(f"{numbers} {'never' if step == 'always' else f'from step {step}'}")
        lines.append(f"{modality}: layer {'; '.join(told)}")
    return lines


def _layers(
    task: nn.Module, modalities: Mapping[str, Any] | list[str], setting: str
) -> Iterator[tuple[str, str, int, int]]:
    """(modality, parameter, its depth, that of the last layer) of the encoders."""
    for modality in modalities:
        depths: dict[str, int] = _encoder(task, modality, setting).depths()
        top = max(depths.values(), default=0)
        if top == 0:
            raise ConfigError(f"optim.{setting}: the encoder of {modality!r} has no layers")
        for name, depth in depths.items():
            yield modality, f"model.encoders.{modality}.{name}", depth, top


def _encoder(task: nn.Module, modality: str, setting: str) -> Any:
    model: Any = task.get_submodule("model")
    try:
        return model.encoder(modality)
    except ValueError as error:
        raise ConfigError(f"optim.{setting}: {error}") from None
