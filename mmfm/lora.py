"""LoRA in fine-tuning: of the model only small matrices beside its linear layers train, and with
them the head.

    lora: {rank: 8, alpha: 16, dropout: 0.0, parts: [text, fusion]}
    lora: {parts: [text], targets: [query, value]}

A checkpoint holds the layers as they are; as `init` of another run it is the model with the
products added to its weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn

from mmfm.encoders.base import BLOCK, Encoder
from mmfm.layers.lora import can_wrap, is_wrapped, of_lora, wrap
from mmfm.model import Model

FUSION = "fusion"


@dataclass(kw_only=True)
class LoraConfig:
    """`rank` of the products, which count `alpha` / `rank` times; `dropout` of their inputs.

    `parts`: modalities, or "fusion"; unset, the fusion and all encoders that aren't frozen.
    `targets`: names of layers, or the ends of such names (``attention.out``); unset, all linear
    layers and 1×1 convolutions of the blocks.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    parts: list[str] | None = None
    targets: list[str] | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank = {self.rank} must be at least 1")
        if not self.alpha > 0:
            raise ValueError(f"alpha = {self.alpha} must be above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout = {self.dropout} must be in [0, 1)")
        for name in ("parts", "targets"):
            if getattr(self, name) == []:
                raise ValueError(f"{name} is empty: leave it out, or name at least one")


def add_lora(model: Model, config: LoraConfig) -> None:
    """Put LoRA into the chosen layers of `model`; all else of those parts stops training.

    Raises:
        ValueError: for a part that isn't there or is frozen, or in which there is no such layer.
    """
    fitting: set[str] = set()
    there: list[str] = []
    for name, part in _parts(model, config.parts):
        layers = can_wrap(part)
        there += layers
        if config.targets is None:
            chosen = _in_blocks(part, layers)
        else:
            fits = {n: [t for t in config.targets if f".{n}".endswith(f".{t}")] for n in layers}
            chosen = [n for n, targets in fits.items() if targets]
            fitting.update(target for targets in fits.values() for target in targets)
        if not chosen and config.parts is not None:
            raise ValueError(f"parts: {name!r} has no layer for it; {_hint(layers)}")
        if chosen:
            wrap(part, chosen, config.rank, config.alpha, config.dropout)
            part.train()
    for target in config.targets or ():
        if target not in fitting:
            raise ValueError(f"targets: no layer is called {target!r}; {_hint(there)}")
    if not any(map(is_wrapped, all_parts(model).values())):
        raise ValueError(f"there is no layer to put it into; {_hint(there)}")


def described(model: Model) -> list[str]:
    """A line for each part with LoRA: how many layers have it, what they are called, how many
    weights train in it.
    """
    lines = []
    for name, part in all_parts(model).items():
        inside = {n: p.numel() for n, p in part.named_parameters() if of_lora(n)}
        layers = list(dict.fromkeys(n.rsplit(".lora_", 1)[0] for n in inside))
        if layers:
            lines.append(
                f"{name}: {sum(inside.values()):,} weights in {len(layers)} layers "
                f"({', '.join(_last_words(layers))})"
            )
    return lines


def _parts(model: Model, names: list[str] | None) -> Iterator[tuple[str, nn.Module]]:
    there = all_parts(model)
    for name in there if names is None else names:
        if name not in there:
            raise ValueError(f"parts: there is no {name!r}; the model has {', '.join(there)}")
        part = there[name]
        if isinstance(part, Encoder) and part.frozen:
            if names is not None:
                raise ValueError(
                    f"parts: the encoder of {name!r} is frozen (frozen: true or freeze: encoders) "
                    "and so can't learn anything; unfreeze it, or leave it out of parts"
                )
            continue
        yield name, part


def all_parts(model: Model) -> dict[str, nn.Module]:
    """The encoders by modality, and the fusion where there is one."""
    parts: dict[str, nn.Module] = dict(model.encoders.items())
    return parts if model.fusion is None else {**parts, FUSION: model.fusion}


def _in_blocks(part: nn.Module, layers: Iterable[str]) -> list[str]:
    if isinstance(part, Encoder):
        depths = part.depths()
        return [name for name in layers if depths.get(f"{name}.weight", 0) > 0]
    return [name for name in layers if BLOCK.search(f"{name}.")]


def _hint(layers: Iterable[str]) -> str:
    names = _last_words(layers)
    if not names:
        return "no linear layer is there at all: see optim.top_layers"
    return f"there are {', '.join(names)}"


def _last_words(names: Iterable[str]) -> list[str]:
    """What layers are called, whichever block they are of: ``qkv``, ``mlp.0``."""
    ends = (re.search(r"[^.]*[^.\d][^.]*(\.\d+)*$", name) for name in names)
    return list(dict.fromkeys(end[0] for end in ends if end))
