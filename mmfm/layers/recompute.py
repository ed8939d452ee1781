"""Activation checkpointing: what a block keeps for the backward pass is computed again instead
(Chen et al. 2016, arXiv:1604.06174).

    recompute_activations(task)  # before the engine is built; costs about a third more time
"""

from __future__ import annotations

from torch import nn

from mmfm.layers.decoder import Decoder
from mmfm.layers.transformer import Transformer


def recompute_activations(module: nn.Module) -> int:
    """Switch it on in every stack of blocks inside `module`, and return how many there are.

    Dropout is replayed with the generator's state of the first pass, so the gradients are the same.
    """
    found = 0
    for part in module.modules():
        if isinstance(part, Transformer | Decoder):
            part.recompute = True
        elif getattr(part, "supports_gradient_checkpointing", False):  # a model of transformers
            part.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        elif hasattr(part, "set_grad_checkpointing"):  # a model of timm
            part.set_grad_checkpointing()  # type: ignore[operator]
        else:
            continue
        found += 1
    return found
