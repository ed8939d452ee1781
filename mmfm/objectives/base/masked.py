"""What the settings of the masked objectives share: the ratio, and what they may see."""

from __future__ import annotations

from mmfm.model import Model
from mmfm.types import Read


def check_ratio(mask_ratio: float) -> None:
    if not 0 < mask_ratio < 1:
        raise ValueError(f"mask_ratio = {mask_ratio} must be above 0 and below 1")


def masked_read(modality: str, context: list[str] | None, model: Model) -> tuple[Read, int]:
    """The masked read of `modality` with what it may see, and the width of its tokens."""
    if modality not in model.encoders:
        raise ValueError(f"modality {modality!r}: the model has only {', '.join(model.encoders)}")
    if model.fusion is None:
        if context not in (None, [], [modality]):
            raise ValueError(f"context = {context!r} needs model.fusion, which is null")
        return Read("masked", (modality,)), model.encoder(modality).width
    modalities = set(model.encoders) if context is None else {modality, *context}
    unknown = modalities - set(model.encoders)
    if unknown:
        raise ValueError(
            f"context names {sorted(unknown)}, the model has {', '.join(model.encoders)}"
        )
    return Read("masked", tuple(sorted(modalities)), fused=True), model.fusion.width
