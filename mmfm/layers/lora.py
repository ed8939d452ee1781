"""LoRA layers: a weight W that stays, and beside it a product B·A of rank r that trains, so that
the layer's weight is W + scale·B·A (Hu et al. 2021, arXiv:2106.09685). The layers are peft's.

    wrap(encoder, ["transformer.blocks.0.attention.qkv"], rank=8, alpha=16)
    plain = merged(encoder.state_dict(), scale=16 / 8)
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

_BASE, _A, _B = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"


def can_wrap(module: nn.Module) -> list[str]:
    """The layers of `module` that multiply with a matrix: linear ones and ungrouped 1×1
    convolutions.

    Where timm's attention has biases of its own (BEiT, EVA), it takes the weight out of ``qkv``
    without calling that: LoRA would do nothing there.
    """
    names = []
    for name, layer in module.named_modules():
        point = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
        parent, _, own = name.rpartition(".")
        called = own != "qkv" or getattr(module.get_submodule(parent), "q_bias", None) is None
        if called and (point or isinstance(layer, nn.Linear)):
            names.append(name)
    return names


def wrap(
    module: nn.Module, names: Collection[str], rank: int, alpha: float, dropout: float = 0.0
) -> None:
    """Put LoRA into the layers `names` of `module`; nothing else of it trains afterwards.

    B starts at zero, so at first all outputs are what they were.
    """
    import peft  # takes seconds

    exactly = "|".join(re.escape(name) for name in names)
    settings = peft.LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=exactly, bias="none"
    )
    peft.inject_adapter_in_model(settings, module)


def is_wrapped(module: nn.Module) -> bool:
    """Whether any layer of `module` has LoRA."""
    return any(name.endswith(_A) for name, _ in module.named_parameters())


def of_lora(name: str) -> bool:
    """Whether `name` is that of an A or a B."""
    return name.endswith((_A, _B))


def merged(tensors: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The weights of the module without LoRA that gives the same outputs, by its own names."""
    plain = {n.replace(_BASE, "."): t for n, t in tensors.items() if not of_lora(n)}
    for name, a in tensors.items():
        if name.endswith(_A):
            layer = name.removesuffix(_A)
            b = tensors[layer + _B]
            weight = plain[f"{layer}.weight"]
            # In double, so that the sum is rounded once.
            product = torch.mm(b.flatten(1).double(), a.flatten(1).double()).view(weight.shape)
            plain[f"{layer}.weight"] = (weight.double() + scale * product).to(weight.dtype)
    return plain


def in_names_of(module: nn.Module, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`plain` weights by the names that they have in `module`, with its own LoRA as it is."""
    own = module.state_dict()
    base = {name.replace(_BASE, "."): name for name in own if _BASE in name}
    lora = {name: tensor for name, tensor in own.items() if of_lora(name)}
    return {base.get(name, name): tensor for name, tensor in plain.items()} | lora
