"""Pictures and sounds of the user's files on their way into shards: kept as they are where nothing
is asked of them, decoded in any case, so that what can't be decoded stays out of the shards.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import soundfile
from PIL import Image, ImageOps

from mmfm_prep import pictures, sound

Format = Literal["keep", "jpg", "png", "webp"]
_ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_NAMES = {ending: name for name, ending in _ENDINGS.items()}
_SOUNDS = {"FLAC": "flac", "WAV": "wav", "OGG": "ogg"}
_FILTER = Image.Resampling.LANCZOS


@dataclass(kw_only=True)
class Processing:
    """What becomes of pictures and sounds.

    `image_longest`, `image_shortest`: the most pixels that this side may have (larger pictures are
    shrunk, none is enlarged). `image_format`: what pictures are written as; with ``keep`` those
    that need no change keep their bytes, where they are JPEG, PNG or WebP. `audio_rate`: sounds
    become mono FLAC at this rate in Hz. `audio_level`: and get this loudness (RMS of full scale,
    the peaks kept below 1).
    """

    image_longest: int | None = None
    image_shortest: int | None = None
    image_format: Format = "keep"
    image_quality: int = 90
    audio_rate: int | None = None
    audio_level: float | None = None

    def __post_init__(self) -> None:
        if self.image_longest is not None and self.image_shortest is not None:
            raise ValueError("image_longest and image_shortest: name one of them")
        for name in ("image_longest", "image_shortest", "audio_rate"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} = {value} must be at least 1")
        if not 1 <= self.image_quality <= 100:
            raise ValueError(f"image_quality = {self.image_quality} must be from 1 to 100")
        if self.audio_level is not None and not 0 < self.audio_level <= 1:
            raise ValueError(f"audio_level = {self.audio_level} must be above 0 and at most 1")


def image(data: bytes, how: Processing) -> tuple[bytes, str]:
    """The picture in `data` as (bytes, ending), upright and without transparency where it is
    written anew. ValueError, its message a reason, where there is none.
    """
    picture = _open(data)
    here = _ENDINGS.get(picture.format or "")
    ending = (here or "png") if how.image_format == "keep" else how.image_format
    upright = ImageOps.exif_transpose(picture)
    size = _size(upright.size, how)
    if ending == here and size == upright.size and not picture.has_transparency_data:
        return data, ending
    if picture.has_transparency_data:
        # Premultiplied, so that hidden colours of transparent pixels don't bleed into the edges.
        upright = upright.convert("RGBA").convert("RGBa").resize(size, _FILTER).convert("RGBA")
        white = Image.new("RGBA", size, pictures.WHITE)
        upright = Image.alpha_composite(white, upright).convert("RGB")
    else:
        upright = upright if upright.mode in ("RGB", "L") else upright.convert("RGB")
        upright = upright.resize(size, _FILTER)
    file = io.BytesIO()
    options = {} if ending == "png" else {"quality": how.image_quality}
    upright.save(file, _NAMES[ending], **options)
    return file.getvalue(), ending


def audio(data: bytes, how: Processing) -> tuple[bytes, str]:
    """The sound in `data` as (bytes, ending). ValueError, its message a reason, where there is
    none, or none is heard.
    """
    wave, rate = sound.decode(data)
    if not np.isfinite(wave).all():
        raise ValueError("sound has values that are no numbers")
    if not len(wave) or not wave.any():
        raise ValueError("sound is silent")
    ending = _SOUNDS.get(soundfile.info(io.BytesIO(data)).format)
    if ending and how.audio_rate is None and how.audio_level is None:
        return data, ending
    to_rate = how.audio_rate or rate
    wave = sound.resample(wave, rate, to_rate)
    if how.audio_level is not None:
        wave = sound.to_level(wave, how.audio_level)
    return sound.encode(wave, to_rate), "flac"


def _open(data: bytes) -> Image.Image:
    """The picture, all of it decoded: one that is cut off is found here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes, which are judged here
            picture = Image.open(io.BytesIO(data))
        if picture.width * picture.height > pictures.MAX_PIXELS:
            raise ValueError("picture has too many pixels")
        picture.load()
    except ValueError:
        raise
    except Exception:  # broken files make PIL raise almost anything
        raise ValueError("picture is unreadable") from None
    return picture


def _size(size: tuple[int, int], how: Processing) -> tuple[int, int]:
    most = how.image_longest or how.image_shortest
    if most is None:
        return size
    side = max(size) if how.image_longest else min(size)
    scale = min(1.0, most / side)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
