"""Predict masked words from what is left of all modalities (BERT, arXiv:1810.04805; FLAVA's MLM and
MMM). A word is scored by the encoder's own embedding of it, as in BERT.

objectives:
  masked_text: {type: masked_text, mask_ratio: 0.15}
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from mmfm.layers.tied import TiedLinear
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
class Config(ObjectiveConfig):
    """`context`: the modalities that the fusion sees (none named: all); without fusion only the
    text itself.
    """

    modality: str = "text"
    mask_ratio: float = 0.15
    context: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio(self.mask_ratio)

    def build(self, model: Model) -> MaskedText:
        return MaskedText(self, model)


class MaskedText(MaskedObjective):
    """Cross-entropy of the words at masked positions; one term, ``masked_<modality>``."""

    def __init__(self, config: Config, model: Model) -> None:
        super().__init__()
        self.modality = config.modality
        self.masks = {config.modality: config.mask_ratio}
        read, width = masked_read(config.modality, config.context, model)
        self.reads = (read,)
        table = model.encoder(config.modality).word_embedding()
        if table is None:
            raise ValueError(
                f"modality {config.modality!r} has no words to predict: its encoder has no "
                "word_embedding"
            )
        self.words = TiedLinear(table)
        inner = self.words.in_features
        self.transform = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.LayerNorm(inner))

    def at_masked(self, found: Features) -> tuple[Tensor, Tensor]:
        masked_BL = found.masked[self.modality]
        logits_NV = self.logits(self.seen(found)[masked_BL])
        words_N = found.targets[self.modality][masked_BL]
        return F.cross_entropy(logits_NV, words_N, reduction="none"), logits_NV.argmax(-1)

    def logits(self, tokens_ND: Tensor) -> Tensor:
        """[N,D] ▶ [N,V] float32: what could stand at the position of each token."""
        found: Tensor = self.words(self.transform(tokens_ND)).float()
        return found

    def reconstruct(self, features: ReadFeatures) -> Reconstruction:
        """Token ids [B,L] int64; the likeliest one is predicted at every position.

        ValueError where no sample has the modality.
        """
        found = features[self.reads[0]]
        if self.modality not in found.masked:
            raise ValueError(f"no sample has {self.modality!r}: there is nothing to reconstruct")
        predicted_BL = self.logits(self.seen(found)).argmax(-1)
        return Reconstruction(
            found.masked[self.modality], found.targets[self.modality], predicted_BL
        )
