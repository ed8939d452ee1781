"""Vision transformer (Dosovitskiy et al. 2021) that can leave masked patches out (He et al. 2022).

``model.encoders.image: {type: vision_transformer, image_size: 224, patch_size: 16, width: 384}``
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from mmfm.encoders.base import Encoder, EncoderConfig
from mmfm.layers.patch_embed import PatchEmbed, patchify
from mmfm.layers.pooling import mean_pool
from mmfm.layers.position import sincos_2d
from mmfm.layers.transformer import TransformerConfig


@dataclass(kw_only=True)
class Config(EncoderConfig, TransformerConfig):
    """Sizes in pixels; `mean` and `std` of the channels, for pixels between 0 and 1."""

    image_size: int = 224
    patch_size: int = 16
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"

    def __post_init__(self) -> None:
        EncoderConfig.__post_init__(self)
        TransformerConfig.__post_init__(self)
        if self.patch_size < 1 or self.image_size % self.patch_size or self.image_size < 1:
            raise ValueError(
                f"image_size = {self.image_size} must be a multiple of "
                f"patch_size = {self.patch_size}"
            )
        if self.width % 4:
            raise ValueError(f"width = {self.width} must be a multiple of 4 (2D position codes)")
        if min(self.std) <= 0:
            raise ValueError(f"std = {self.std} must be above 0")

    def build(self, assets: Path | None = None) -> Encoder:
        return VisionTransformer(self).finish()


class VisionTransformer(Encoder):
    """[B,3,H,W] normalised pixels ▶ patch tokens after the last norm, and their mean."""

    drops = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.patch_size = config.patch_size
        self.image_size = config.image_size
        side = config.image_size // config.patch_size
        self.width = config.width
        self.grid = (side, side)
        self.grid_length = side * side
        self.patch_dim = 3 * config.patch_size**2
        self.spec = {
            "size": config.image_size,
            "mean": list(config.mean),
            "std": list(config.std),
            "interpolation": config.interpolation,
        }
        position = sincos_2d(side, side, config.width)
        self.patch_embed = PatchEmbed(self.patch_dim, position)
        self.transformer = config.transformer()

    def encode(
        self, inputs: Tensor, valid: Tensor | None, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        valid = None if keep is None else keep >= 0
        tokens = self.transformer(self.patch_embed(self.patchify(inputs), keep), valid)
        return tokens, mean_pool(tokens, valid)

    def patchify(self, inputs: Tensor, valid: Tensor | None = None) -> Tensor:
        side = self.image_size
        if inputs.shape[1:] != (3, side, side):
            raise ValueError(f"images must be [B,3,{side},{side}], not {list(inputs.shape)}")
        return patchify(inputs, self.patch_size, self.patch_size)
