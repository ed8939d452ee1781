"""A sample's bytes ▶ a normalised tensor, the usual way or mmfm's."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from mmfm.data.transforms.image import Config


def resize(size: int) -> transforms.Compose:
    """A PIL picture ▶ [3, size, size], as torchvision's users write it."""
    return transforms.Compose(
        [
            transforms.Resize(size, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize((0.5,) * 3, (0.5,) * 3),
        ]
    )


class Usual:
    def __init__(self, size: int) -> None:
        self.resize = resize(size)

    def __call__(self, content: bytes) -> torch.Tensor:
        return self.resize(Image.open(io.BytesIO(content)).convert("RGB"))


class Mmfm:
    def __init__(self, size: int) -> None:
        self.transform = Config().build({"size": size})
        self.rng = np.random.default_rng(0)  # unused: nothing is augmented

    def __call__(self, content: bytes) -> torch.Tensor:
        pixels = self.transform.decode_content(content, self.rng, False)
        return self.transform.collate([pixels])["image"][0]


class Skip:
    """Nothing is decoded: to get to a place quickly."""

    def __call__(self, content: bytes) -> torch.Tensor:
        return torch.zeros(1)


def decoding(name: str, size: int) -> Any:
    return {"usual": Usual, "mmfm": Mmfm}[name](size) if name != "skip" else Skip()


def content_of(sample: dict[str, Any]) -> bytes:
    """The picture's bytes in a sample of files by ending."""
    return next(sample[ending] for ending in ("jpg", "png") if ending in sample)
