"""A smaller transformers model out of some layers of a larger one (as in DistilBERT,
arXiv:1910.01108).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

_STACKS = ("layer", "layers", "h", "blocks")


def with_layers(model: Any, keep: Sequence[int]) -> Any:
    """A model of the layers `keep` of `model`, in this order, with their weights; its config says
    how many they are.

    Raises:
        ValueError: for a layer that isn't there, or a model whose layers can't be told apart.
    """
    layers = model.config.num_hidden_layers
    if max(keep) >= layers:
        raise ValueError(f"keep_layers = {list(keep)}: there are the layers 0 to {layers - 1}")
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(keep)
    if getattr(config, "layer_types", None):  # layers of several kinds
        config.layer_types = [config.layer_types[i] for i in keep]
    small = type(model)(config)
    small.load_state_dict(picked(model.state_dict(), stack_of(model), keep))
    return small


def stack_of(model: Any) -> str:
    """The name of the list of layers; ValueError where there is none."""
    for name, part in model.named_modules():
        whole = isinstance(part, nn.ModuleList) and len(part) == model.config.num_hidden_layers
        if whole and name.rpartition(".")[-1] in _STACKS:
            return str(name)
    raise ValueError(f"keep_layers: a {type(model).__name__} has no list of single layers")


def picked(whole: Mapping[str, Tensor], stack: str, keep: Sequence[int]) -> dict[str, Tensor]:
    """Of the weights of the `whole` model those of the one with the layers `keep`, by its names."""
    place = {old: new for new, old in enumerate(keep)}
    found = {}
    for name, tensor in whole.items():
        inside = re.fullmatch(rf"{re.escape(stack)}\.(\d+)\.(.*)", name)
        if inside is None:
            found[name] = tensor
        elif int(inside[1]) in place:
            found[f"{stack}.{place[int(inside[1])]}.{inside[2]}"] = tensor
    return found


def layers_in(whole: Mapping[str, Tensor], stack: str) -> int:
    """How many layers the weights are of."""
    inside = (re.match(rf"{re.escape(stack)}\.(\d+)\.", name) for name in whole)
    return max((int(found[1]) + 1 for found in inside if found), default=0)
