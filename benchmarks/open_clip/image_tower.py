"""open_clip's image tower as an encoder of mmfm: ``type: benchmarks.open_clip.image_tower``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from mmfm.encoders.base import Encoder, EncoderConfig
from open_clip.model import CLIPVisionCfg, _build_vision_tower


@dataclass(kw_only=True)
class Config(EncoderConfig):
    """As open_clip's `CLIPVisionCfg`."""

    image_size: int = 64
    patch_size: int = 8
    width: int = 128
    layers: int = 4
    head_width: int = 32

    def theirs(self) -> CLIPVisionCfg:
        return CLIPVisionCfg(
            layers=self.layers,
            width=self.width,
            head_width=self.head_width,
            patch_size=self.patch_size,
            image_size=self.image_size,
        )

    def build(self, assets: Path | None = None) -> Encoder:
        return ImageTower(self).finish()


class ImageTower(Encoder):
    """The tower without its projection, which is mmfm's linear one."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.width = config.width
        self.grid_length = (config.image_size // config.patch_size) ** 2
        self.spec = {
            "size": config.image_size,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
        }
        settings = replace(config.theirs(), output_tokens=True)
        self.tower = _build_vision_tower(config.width, settings)
        self.tower.proj = None

    def encode(
        self, inputs: Tensor, valid: Tensor | None, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        pooled, tokens = self.tower(inputs.to(self.tower.conv1.weight.dtype))
        return tokens, pooled
