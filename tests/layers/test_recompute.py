"""Activation checkpointing: the same outputs and gradients, with less kept in between."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from mmfm.layers.recompute import recompute_activations
from mmfm.layers.transformer import Transformer


def gradients(module: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(5)
    module.zero_grad()
    loss = module(x).square().mean()
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in module.named_parameters()}


def kept(module: nn.Module, x: torch.Tensor) -> int:
    """The numbers that a forward pass keeps for the backward one."""
    sizes: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        module(x)
    return sum(sizes)


def models() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    from transformers import ViTConfig, ViTModel

    vit = ViTModel(
        ViTConfig(
            image_size=16, patch_size=4, hidden_size=16, num_hidden_layers=4,
            num_attention_heads=2, intermediate_size=64, hidden_dropout_prob=0.2,
            attention_probs_dropout_prob=0.0,
        ),
        add_pooling_layer=False,
    )  # fmt: skip

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = vit

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x).last_hidden_state

    own = Transformer(16, 4, 2, dropout=0.3, drop_path=0.2)
    deep = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=16, depth=4, num_heads=2,
        num_classes=0, proj_drop_rate=0.2,
    )  # fmt: skip
    pictures = torch.randn(8, 3, 16, 16)
    return {
        "mmfm": (own, torch.randn(8, 12, 16)),
        "timm": (deep, pictures),
        "transformers": (Tokens(), pictures),
    }


@pytest.mark.parametrize("of", ["mmfm", "timm", "transformers"])
def test_the_same_gradients_from_less(of: str) -> None:
    torch.manual_seed(0)
    module, x = models()[of]
    module.train()
    loss, want = gradients(module, x)
    before = kept(module, x)
    assert recompute_activations(module) == 1
    again, got = gradients(module, x)
    assert again == loss
    for name, gradient in want.items():
        assert torch.equal(got[name], gradient), name
    assert kept(module, x) < before / 2


def test_what_has_no_blocks_is_left_as_it_is() -> None:
    assert recompute_activations(nn.Linear(2, 2)) == 0
