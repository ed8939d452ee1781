"""Reconstruct masked patches of a log-mel spectrogram from what is left of all modalities.

objectives:
  masked_audio: {type: masked_audio, mask_ratio: 0.75}
"""

from __future__ import annotations

from dataclasses import dataclass

from mmfm.model import Model
from mmfm.objectives._masked_patches import MaskedPatches, MaskedPatchesConfig


@dataclass(kw_only=True)
class Config(MaskedPatchesConfig):
    """See `MaskedPatchesConfig`; `modality` names the encoder whose patches are hidden."""

    modality: str = "audio"

    def build(self, model: Model) -> MaskedPatches:
        return MaskedPatches(self, self.modality, model)
