"""What every encoder has in common: the contract that the model, the objectives and the data
pipeline rely on.

An encoder is one module of this package with a dataclass `Config` whose `build(assets=None)`
returns an `Encoder`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmfm.config import to_dict
from mmfm.layers.batch_norms import GroupNorms, follow_precision


@dataclass(kw_only=True)
class EncoderConfig:
    """Settings that every encoder has.

    `frozen`: its weights don't train, and it stays in evaluation mode. `cache` (needs `frozen`):
    its outputs are computed once for each sample and read from the feature cache afterwards.
    """

    frozen: bool = False
    cache: bool = False

    def __post_init__(self) -> None:
        if self.cache and not self.frozen:
            raise ValueError("cache = true needs frozen = true: a trained encoder's outputs change")

    def freeze(self) -> None:
        """Set `frozen`, and back what trains."""
        self.frozen = True


BLOCK = re.compile(r"(?:^|\.)(?:blocks|layers?|h)\.(\d+)\.")
"""Where a parameter's name says which block it is of, here and in transformers."""


class Encoder(nn.Module):
    """One modality's inputs ▶ tokens and a pooled vector.

    `width` is the width D of both; `spec` (plain JSON) tells the data pipeline how to prepare
    inputs; `grid_length` is the number of grid positions G where it is fixed (for audio: at the
    longest clip), None for text; `grid` its (rows, columns) where it has two dimensions; `drops`
    says whether `keep` can leave patches out, an encoder that doesn't has `mask_inputs`;
    `patch_dim` is the size P of a patch where it has `patchify`, else 0; `norms` are its batch
    norms where they train.
    """

    width: int
    spec: dict[str, Any]
    grid_length: int | None = None
    grid: tuple[int, int] | None = None
    drops: bool = False
    patch_dim: int = 0

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.settings: dict[str, Any] = to_dict(config)
        self.frozen = config.frozen
        self.cache = config.cache
        self.norms: GroupNorms | None = None

    @property
    def has_patches(self) -> bool:
        """Whether there are patches to reconstruct: `patchify`."""
        return self.patch_dim > 0

    def finish(self) -> Encoder:
        """Set modes and gradients once all parameters are there; the last call of a `build`."""
        follow_precision(self)
        if self.frozen:
            self.requires_grad_(False)
        return self.train()

    def train(self, mode: bool = True) -> Encoder:
        """Training mode, except for frozen encoders and batch norms without `norms`: those always
        evaluate.
        """
        super().train(mode and not self.frozen)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(self.training and self.norms is not None)
        return self

    def forward(
        self, inputs: Tensor, valid: Tensor | None = None, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Inputs [B,…] ▶ (tokens [B,L,D], pooled [B,D]).

        `valid` bool marks what is not padding in the inputs (text [B,L], audio [B,S]). `keep` [B,K]
        int64, ascending, -1 = padding, selects grid positions (only where `drops`): the tokens then
        are [B,K,D], and pooled is their mean.
        """
        assert keep is None or self.drops, f"{type(self).__name__} can't leave patches out"
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.encode(inputs, valid, keep)

    def encode(
        self, inputs: Tensor, valid: Tensor | None, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The encoder itself; `forward` adds what freezing needs."""
        raise NotImplementedError

    def token_valid(self, inputs: Tensor, valid: Tensor | None = None) -> Tensor:
        """[B,G] bool: the grid positions that hold real content."""
        if self.grid_length is None:
            whole = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
            return whole if valid is None else valid
        shape = (inputs.shape[0], self.grid_length)
        return torch.ones(shape, dtype=torch.bool, device=inputs.device)

    def maskable(self, inputs: Tensor, valid: Tensor | None = None) -> Tensor:
        """[B,G] bool: the grid positions that a mask may choose."""
        return self.token_valid(inputs, valid)

    def mask_inputs(self, inputs: Tensor, masked_BG: Tensor, mask_seed_B: Tensor) -> Tensor:
        """The inputs with the `masked` grid positions hidden; where `drops`, use `keep` instead."""
        raise ValueError(f"{type(self).__name__} can't mask its inputs: choose another objective")

    def patchify(self, inputs: Tensor, valid: Tensor | None = None) -> Tensor:
        """[B,G,P]: what a masked objective reconstructs at each grid position (only where
        `has_patches`).
        """
        raise ValueError(f"{type(self).__name__} has no patches to reconstruct")

    def depths(self) -> dict[str, int]:
        """Parameter ▶ its depth, for learning rates by layer: 0 before the first block, n in the
        n-th, and what is made after the last block counts as that one.
        """
        found, last = {}, 0
        for name, _ in self.named_parameters():
            block = BLOCK.search(name)
            last = int(block[1]) + 1 if block else last
            found[name] = last
        return found

    def word_embedding(self) -> nn.Embedding | None:
        """The table [V,D'] that the inputs are looked up in; None where they are no words."""
        return None

    def text_frame(self) -> tuple[list[int], list[int]]:
        """The ids that begin and that end all inputs; none where they are no words."""
        return [], []

    def pick(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of this encoder out of those of the `whole` one that it is a part of."""
        return dict(whole)

    def text_of(self, ids: Sequence[int]) -> str:
        """The text that inputs `ids` are of, without what begins and ends it."""
        raise ValueError("this encoder's inputs are no words")

    def save_assets(self, folder: Path) -> None:
        """Write into `folder` what `Config.build(assets=folder)` needs beside the weights and the
        config.
        """
