"""Reconstruct masked patches of any modality that has them (MAE, arXiv:2111.06377): shared by image
and audio.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfm.encoders.base import Encoder
from mmfm.layers.position import sincos_2d
from mmfm.layers.transformer import Transformer
from mmfm.model import Model
from mmfm.objectives.base import (
    MaskedObjective,
    ObjectiveConfig,
    ReadFeatures,
    Reconstruction,
)
from mmfm.objectives.base.masked import check_ratio, masked_read
from mmfm.types import Features


@dataclass(kw_only=True)
class MaskedPatchesConfig(ObjectiveConfig):
    """`normalise`: each target patch to mean 0 and variance 1, as in the paper."""

    mask_ratio: float = 0.75
    context: list[str] | None = None
    decoder_width: int = 128
    decoder_layers: int = 1
    decoder_heads: int = 4
    normalise: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio(self.mask_ratio)


class MaskedPatches(MaskedObjective):
    """Mean squared error of each masked patch."""

    def __init__(self, config: MaskedPatchesConfig, modality: str, model: Model) -> None:
        super().__init__()
        self.modality = modality
        self.masks = {modality: config.mask_ratio}
        self.normalise = config.normalise
        read, width = masked_read(modality, config.context, model)
        self.reads = (read,)
        encoder = model.encoder(modality)
        if not encoder.has_patches or encoder.grid_length is None:
            raise ValueError(f"the encoder of {modality!r} has no patches to reconstruct")
        if encoder.cache:
            raise ValueError(
                f"masked_{modality} can't stand behind model.encoders.{modality}.cache: the cached "
                "tokens have seen the patches that it hides; set cache: false or leave the "
                "objective out"
            )
        self.embed = nn.Linear(width, config.decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(config.decoder_width))
        self.position = nn.Parameter(_first_positions(encoder, config.decoder_width))
        nn.init.normal_(self.mask_token, std=0.02)
        self.decoder = Transformer(
            config.decoder_width, config.decoder_layers, config.decoder_heads
        )
        self.predict = nn.Linear(config.decoder_width, encoder.patch_dim)
        # At first 0, the mean of a patch where they are normalised, and not noise around it.
        nn.init.zeros_(self.predict.weight)
        nn.init.zeros_(self.predict.bias)

    def at_masked(self, found: Features) -> tuple[Tensor, Tensor]:
        masked_BG = found.masked[self.modality]
        predicted_NP = self._decode(found)[masked_BG].float()
        target_NP = self.target(found.targets[self.modality])[masked_BG]
        return F.mse_loss(predicted_NP, target_NP, reduction="none").mean(1), predicted_NP

    def target(self, stands_BG: Tensor) -> Tensor:
        return normalise_patches(stands_BG.float()) if self.normalise else stands_BG.float()

    def reconstruct(self, features: ReadFeatures) -> Reconstruction:
        """Patches [B,G,P] in the encoder's own units (see `patchify`).

        A loss on normalised patches leaves their mean and deviation unsaid: those of the target are
        put in, so that the picture shows structure only. ValueError where no sample has the
        modality.
        """
        found = features[self.reads[0]]
        if self.modality not in found.masked:
            raise ValueError(f"no sample has {self.modality!r}: there is nothing to reconstruct")
        predicted_BGP = self._decode(found).float()
        target_BGP = found.targets[self.modality].float()
        if self.normalise:
            mean, deviation = _moments(target_BGP)
            predicted_BGP = predicted_BGP * deviation + mean
        return Reconstruction(found.masked[self.modality], target_BGP, predicted_BGP)

    def _decode(self, found: Features) -> Tensor:
        m = self.modality
        return self.decode(self.seen(found), found.kept[m], found.valid[m], found.masked[m])

    def decode(
        self, tokens_BKD: Tensor, kept_BK: Tensor, valid_BK: Tensor, masked_BG: Tensor
    ) -> Tensor:
        """Predictions for the whole grid [B,G,P] from the kept tokens at their positions."""
        B, G = masked_BG.shape
        seen_BKC = self.embed(tokens_BKD)
        known_BK = valid_BK & (kept_BK >= 0)
        # One spare slot at the end takes what is padding, and is cut off again.
        slot_BK = kept_BK.masked_fill(~known_BK, G)
        grid_BGC = self.mask_token.to(seen_BKC.dtype).expand(B, G + 1, -1).clone()
        grid_BGC = grid_BGC.scatter(1, slot_BK[..., None].expand_as(seen_BKC), seen_BKC)
        seen_BG = torch.zeros(B, G + 1, dtype=torch.bool, device=slot_BK.device)
        seen_BG = seen_BG.scatter(1, slot_BK, True)[:, :G]
        # Encoders that see every position return tokens there too; those are hidden by the mask
        # token.
        grid_BGC = torch.where(
            masked_BG[..., None], self.mask_token.to(seen_BKC.dtype), grid_BGC[:, :G]
        )
        decoded_BGC = self.decoder(grid_BGC + self.position[:G], seen_BG | masked_BG)
        return self.predict(decoded_BGC)  # type: ignore[no-any-return]


def _first_positions(encoder: Encoder, width: int) -> Tensor:
    """[G,width]: what the decoder knows of its positions before it is trained.

    With the codes of a grid it finds the neighbours of a patch from the start; random ones would
    have to be learnt first.
    """
    if encoder.grid is None:
        assert encoder.grid_length is not None
        return nn.init.normal_(torch.empty(encoder.grid_length, width), std=0.02)
    if width % 4:
        raise ValueError(f"decoder_width = {width} must be a multiple of 4 (2D position codes)")
    return sincos_2d(*encoder.grid, width)


def normalise_patches(patches_BGP: Tensor) -> Tensor:
    """Each patch to mean 0 and variance 1 over its values."""
    mean, deviation = _moments(patches_BGP)
    return (patches_BGP - mean) / deviation


def _moments(patches_BGP: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation [B,G,1] of each patch, the deviation never 0."""
    variance = patches_BGP.var(-1, keepdim=True)
    return patches_BGP.mean(-1, keepdim=True), (variance + 1e-6).sqrt()
