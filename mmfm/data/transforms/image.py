"""Pictures: PNG, JPEG or WebP ▶ [3, size, size] float32, normalised.

Transparent pictures are laid on white (white glyphs stay white, hidden colours stay hidden), EXIF
orientation is followed. In evaluation the shortest side is resized to `size` and the centre is cut
out, as torchvision's ``Resize(size)`` and ``CenterCrop(size)`` do.

Large JPEGs are read at 1/2, 1/4 or 1/8 of their size: in training at no less than `size`, in
evaluation at no less than twice that. From full decoding (pictures of 427 to 1024 pixels at 100 to
224, mean of all levels of 255) a photograph differs by 2.7 at most in training and by 0.8 in
evaluation, clip art by 1.0 and 0.2 on average (the worst piece by 4.8 and 1.4).
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mmfm.data.augment_image import AugmentConfig
from mmfm.data.transforms.base import BadSample, Transform, from_spec, media_file

ENDINGS = ("jpg", "jpeg", "png", "webp")
FORMATS = ("JPEG", "PNG", "WEBP")

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_ORIENTATION = 0x0112  # EXIF tag; values 5 to 8 turn the picture by a quarter
_QUARTER_TURNS = (5, 6, 7, 8)
_LAST_COLUMN_FIRST = (2, 3, 6, 7)
_LAST_ROW_FIRST = (3, 4, 7, 8)
_TRAIN_MARGIN, _EVAL_MARGIN = 1, 2  # a JPEG is read at no less than so many times its final size

Box = tuple[float, float, float, float]


@dataclass(kw_only=True)
class Config(AugmentConfig):
    """`crop_scale`: shares of the area that a random crop takes (Inception's random resized crop);
    none if unset. What is inherited changes the colours of training's crops.
    """

    crop_scale: tuple[float, float] | None = None
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    """Probability of a horizontal flip."""
    reduced_jpegs: bool = True
    """Whether large JPEGs are read at a reduced scale, several times as fast."""
    max_pixels: int = 64_000_000
    max_bytes: int = 50_000_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop_scale is not None and not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(
                f"crop_scale = {self.crop_scale} must be (low, high), 0 < low <= high <= 1"
            )
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ValueError(f"crop_ratio = {self.crop_ratio} must be 0 < low <= high")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip = {self.flip} is a probability, from 0 to 1")

    def build(self, spec: Mapping[str, Any]) -> ImageTransform:
        """The transform for an encoder with ``spec = {size, mean, std, interpolation}``."""
        interpolation = spec.get("interpolation", "bicubic")
        if interpolation not in _FILTERS:
            raise ValueError(
                f"the spec of 'image': interpolation {interpolation!r} is none of {[*_FILTERS]}"
            )
        return ImageTransform(
            config=self,
            size=from_spec(spec, "size", int, "image"),
            mean=tuple(float(v) for v in spec.get("mean", (0.5, 0.5, 0.5))),
            std=tuple(float(v) for v in spec.get("std", (0.5, 0.5, 0.5))),
            interpolation=interpolation,
        )


@dataclass
class ImageTransform(Transform):
    """See the module; `decode` gives [size, size, 3] uint8, `collate` normalises."""

    config: Config
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bilinear", "bicubic"]
    augments: bool = field(init=False)

    def __post_init__(self) -> None:
        self._augment = self.config.build_augment(self.size)
        drawn = self.config.crop_scale is not None or self.config.flip > 0
        self.augments = drawn or self._augment is not None

    def contents(self, files: Mapping[str, bytes], meta: Mapping[str, Any]) -> list[bytes]:
        return [media_file(files, ENDINGS, "image", self.config.max_bytes)]

    def content_of_object(self, item: Any) -> bytes:
        """Of a path as a string, a PIL image, or an array [H, W] or [H, W, 3 or 4] of bytes."""
        if isinstance(item, str):
            return self.content_of(Path(item))
        if not isinstance(item, Image.Image):
            pixels = np.asarray(item)
            grey, colour = pixels.ndim == 2, pixels.ndim == 3 and pixels.shape[-1] in (3, 4)
            if pixels.dtype != np.uint8 or not (grey or colour):
                raise ValueError(
                    f"an image as an array must be uint8 [H, W] or [H, W, 3 or 4], not "
                    f"{pixels.dtype} {list(pixels.shape)}"
                )
            item = Image.fromarray(pixels)
        if item.mode in ("CMYK", "YCbCr", "HSV", "LAB"):
            item = item.convert("RGB")
        file = io.BytesIO()
        item.save(file, "PNG", compress_level=1, exif=item.getexif())
        return file.getvalue()

    def decode_content(self, content: bytes, rng: np.random.Generator, train: bool) -> Any:
        try:
            picture = _open(content)
            width, height = picture.size
            if width * height > self.config.max_pixels:
                raise BadSample("image has too many pixels", detail=f"{width} x {height}")
            if picture.getexif().get(_ORIENTATION) in _QUARTER_TURNS:
                width, height = height, width
            box = self._box(width, height, rng, train)
            margin = _TRAIN_MARGIN if train else _EVAL_MARGIN
            picture, box = self._load(picture, (width, height), box, margin)
            picture = picture.resize((self.size, self.size), _FILTERS[self.interpolation], box)
        except BadSample:
            raise
        except Exception as error:  # broken files make PIL raise almost anything
            detail = f"{type(error).__name__}: {error}"
            raise BadSample("image unreadable", detail=detail) from None
        if train and self.config.flip > 0 and rng.random() < self.config.flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if train and self._augment is not None:
            picture = self._augment(picture, rng)
        return np.asarray(picture)

    def collate(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """{"image": [B, 3, size, size] float32}."""
        pixels = torch.from_numpy(np.stack(items)).permute(0, 3, 1, 2)
        mean = torch.tensor(self.mean).view(3, 1, 1) * 255
        std = torch.tensor(self.std).view(3, 1, 1) * 255
        return {"image": pixels.float().sub_(mean).div_(std).contiguous()}

    def _box(self, width: int, height: int, rng: np.random.Generator, train: bool) -> Box:
        """The part of the upright picture that becomes the input: left, top, right, bottom."""
        if train and self.config.crop_scale is not None:
            return _random_box(width, height, self.config.crop_scale, self.config.crop_ratio, rng)
        # torchvision rounds the long side down, and the offset of the crop to the nearest even.
        short = min(width, height)
        new_width, new_height = self.size * width // short, self.size * height // short
        left, top = round((new_width - self.size) / 2.0), round((new_height - self.size) / 2.0)
        x, y = width / new_width, height / new_height
        return left * x, top * y, (left + self.size) * x, (top + self.size) * y

    def _load(
        self, picture: Image.Image, upright: tuple[int, int], box: Box, margin: int
    ) -> tuple[Image.Image, Box]:
        """The upright RGB picture, a JPEG reduced to no less than `margin` times what is needed,
        and the box in it.
        """
        scale = 1.0
        if picture.format == "JPEG" and self.config.reduced_jpegs:
            side = min(box[2] - box[0], box[3] - box[1])
            share = margin * self.size / side
            if share < 1:
                width, height = picture.size
                wanted = (math.ceil(width * share), math.ceil(height * share))
                drafted = picture.draft(picture.mode, wanted)
                scale = 1.0 if drafted is None else drafted[1][2] / width
        orientation = picture.getexif().get(_ORIENTATION, 1)
        picture = _on_white(picture)
        if orientation != 1:
            picture = ImageOps.exif_transpose(picture)
        # The last column and row of a reduced picture may lie partly outside of it.
        x = picture.width - upright[0] * scale if orientation in _LAST_COLUMN_FIRST else 0.0
        y = picture.height - upright[1] * scale if orientation in _LAST_ROW_FIRST else 0.0
        left, top, right, bottom = (edge * scale for edge in box)
        return picture, (
            x + left,
            y + top,
            min(x + right, picture.width),
            min(y + bottom, picture.height),
        )


def _open(content: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sizes that `max_pixels` judges
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
        if picture.format == "PNG":
            _check_png(content)
    return picture


def _check_png(content: bytes) -> None:
    """Compare the checksum of every chunk, at which PIL doesn't look when it loads a picture."""
    at = 8
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        end = at + 8 + length
        (checksum,) = struct.unpack_from(">I", content, end)
        if zlib.crc32(memoryview(content)[at + 4 : end]) != checksum:
            raise ValueError(f"wrong checksum of the chunk at byte {at}")
        if content[at + 4 : at + 8] == b"IEND":
            return
        at = end + 4
    raise ValueError("the end is missing")


def _on_white(picture: Image.Image) -> Image.Image:
    """`picture` in RGB, what is transparent in it laid on white."""
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, picture).convert("RGB")
    if picture.mode.startswith("I"):  # 16-bit grey, which convert() would clip at 255
        grey = np.asarray(picture).astype(np.float64) / 257
        picture = Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))
    return picture.convert("RGB")


def _random_box(
    width: int,
    height: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> Box:
    """A crop with a share of the area from `scale` and width / height from `ratio` (Szegedy et al.

    2015).
    """
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    # No such crop fits a very long picture: the largest one in the middle with the nearest aspect.
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
