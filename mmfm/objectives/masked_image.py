"""Reconstruct masked patches of a picture from what is left of all modalities.

objectives:
  masked_image: {type: masked_image, mask_ratio: 0.75}
"""

from __future__ import annotations

from dataclasses import dataclass

from mmfm.model import Model
from mmfm.objectives._masked_patches import MaskedPatches, MaskedPatchesConfig


@dataclass(kw_only=True)
class Config(MaskedPatchesConfig):
    """See `MaskedPatchesConfig`; `modality` names the encoder whose patches are hidden."""

    modality: str = "image"

    def build(self, model: Model) -> MaskedPatches:
        return MaskedPatches(self, self.modality, model)
