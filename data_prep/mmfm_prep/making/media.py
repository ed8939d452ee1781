"""Pictures and sounds of the user's files on their way into shards: kept as they are where nothing
is asked of them, decoded in any case, so that what can't be decoded stays out of the shards.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from mmfm_prep import pictures, sound
from mmfm_prep.filters import audio as audio_filter
from mmfm_prep.filters import image as image_filter

ImageFormat = Literal["keep", "jpg", "png", "webp"]
AudioFormat = Literal["keep", "flac", "wav"]
_ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_NAMES = {ending: name for name, ending in _ENDINGS.items()}
_SOUNDS = {"FLAC": "flac", "WAV": "wav", "OGG": "ogg"}
_MOST_HZ = 655_350  # FLAC's
_MARGIN = 2  # times the size that a JPEG is shrunk to: what is left is for the better filter
_FILTER = Image.Resampling.LANCZOS


@dataclass(kw_only=True)
class Processing:
    """What becomes of pictures and sounds.

    `image_longest`, `image_shortest`: the most pixels that this side may have (larger pictures are
    shrunk, none is enlarged). `image_format`: what pictures are written as; with ``keep`` those
    that need no change keep their bytes, where they are JPEG, PNG or WebP. `audio_rate`: sounds
    become mono at this rate in Hz. `audio_loudness`: and get this loudness in LUFS (ITU-R BS.1770;
    -23 is broadcast), the peaks kept below full scale. `audio_format`: as `image_format`; what is
    changed is written as FLAC if nothing else is said.
    """

    image_longest: int | None = None
    image_shortest: int | None = None
    image_format: ImageFormat = "keep"
    image_quality: int = 90
    audio_rate: int | None = None
    audio_loudness: float | None = None
    audio_format: AudioFormat = "keep"

    def __post_init__(self) -> None:
        if self.image_longest is not None and self.image_shortest is not None:
            raise ValueError("image_longest and image_shortest: name one of them")
        for name in ("image_longest", "image_shortest"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} = {value} must be at least 1")
        if self.audio_rate is not None and not 1000 <= self.audio_rate <= _MOST_HZ:
            raise ValueError(f"audio_rate = {self.audio_rate} must be from 1000 to {_MOST_HZ}")
        if not 1 <= self.image_quality <= 100:
            raise ValueError(f"image_quality = {self.image_quality} must be from 1 to 100")
        if self.audio_loudness is not None and not -70 < self.audio_loudness < 0:
            raise ValueError(f"audio_loudness = {self.audio_loudness} must be above -70, below 0")


@dataclass(frozen=True)
class Medium:
    """A picture or sound as it is written. `digest` stands for what is seen or heard, whatever the
    file says besides; `signature` for what is nearly the same (empty where nobody asked, or it has
    none).
    """

    data: bytes
    ending: str
    digest: bytes
    signature: bytes = b""


_ANY_IMAGE, _ANY_AUDIO = image_filter.ImageFilter(), audio_filter.AudioFilter()


def image(
    data: bytes,
    how: Processing,
    wanted: image_filter.ImageFilter = _ANY_IMAGE,
    near: bool = False,
) -> Medium:
    """The picture in `data`, upright and without transparency where it is written anew; with a
    signature if `near`.

    ValueError, its message a reason, where there is none; `Unwanted` where it is not `wanted`.
    """
    picture, size, keeps_size = _open(data, how, wanted)
    upright = _eight_bits(_upright(picture))
    if upright.size != picture.size:  # a quarter turn
        size = size[::-1]
    here = _ENDINGS.get(picture.format or "")
    ending = (here or "png") if how.image_format == "keep" else how.image_format
    as_it_is = ending == here and keeps_size and not picture.has_transparency_data
    if picture.has_transparency_data:
        # Premultiplied, so that hidden colours of transparent pixels don't bleed into the edges.
        upright = upright.convert("RGBA").convert("RGBa").resize(size, _FILTER).convert("RGBA")
        white = Image.new("RGBA", size, pictures.WHITE)
        upright = Image.alpha_composite(white, upright).convert("RGB")
    else:
        upright = upright if upright.mode in ("RGB", "L") else upright.convert("RGB")
        upright = upright.resize(size, _FILTER)
    if not as_it_is:
        file = io.BytesIO()
        options = {} if ending == "png" else {"quality": how.image_quality}
        try:
            upright.save(file, _NAMES[ending], **options)
        except (OSError, ValueError):
            raise ValueError(
                f"picture can't be written as {ending}, perhaps for its size"
            ) from None
        data = file.getvalue()
    digest = hashlib.sha256(repr(size).encode() + upright.convert("RGB").tobytes()).digest()[:12]
    return Medium(data, ending, digest, (near and image_filter.signature(upright)) or b"")


def audio(
    data: bytes,
    how: Processing,
    wanted: audio_filter.AudioFilter = _ANY_AUDIO,
    near: bool = False,
) -> Medium:
    """The sound in `data`, with a signature if `near`.

    ValueError, its message a reason, where there is none, or none is heard; `Unwanted` where it is
    not `wanted`.
    """
    wave, rate, kind = sound.read(data, wanted.check)
    if not np.isfinite(wave).all():
        raise ValueError("sound has values that are no numbers")
    if not len(wave) or not wave.any():
        raise ValueError("sound is silent")
    wanted.check(len(wave) / rate)
    digest = hashlib.sha256(f"{rate}".encode() + wave.tobytes()).digest()[:12]
    signature = audio_filter.signature(wave, rate) if near else b""
    here = _SOUNDS.get(kind)
    changed = how.audio_rate is not None or how.audio_loudness is not None
    if here and not changed and how.audio_format in ("keep", here):
        return Medium(data, here, digest, signature)
    ending = "flac" if how.audio_format == "keep" else how.audio_format
    to_rate = how.audio_rate or rate
    if (peak := float(np.abs(wave).max())) > 1:  # floats may be louder than what is written
        wave = wave / np.float32(peak)
    wave = sound.resample(wave, rate, to_rate)
    if not len(wave):
        raise ValueError("sound is too short for audio_rate")
    if how.audio_loudness is not None:
        wave = sound.to_loudness(wave, to_rate, how.audio_loudness)
    return Medium(sound.encode(wave, to_rate, ending), ending, digest, signature)


def _open(
    data: bytes, how: Processing, wanted: image_filter.ImageFilter
) -> tuple[Image.Image, tuple[int, int], bool]:
    """The picture, all of it decoded (one that is cut off is found here); the size that it is to
    have, and whether it has it already.

    Sizes are looked at before, and a JPEG to be shrunk is read at the half, quarter or eighth that
    is still twice as large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes, which are judged here
            picture = Image.open(io.BytesIO(data), formats=pictures.FORMATS)
        wanted.check(picture.size)
        size = _size(picture.size, how)
        keeps_size = size == picture.size
        if not keeps_size:
            picture.draft(None, (_MARGIN * size[0], _MARGIN * size[1]))
        picture.load()
    except ValueError:
        raise
    except Image.DecompressionBombError:
        raise wanted.too_large() from None
    except Exception:  # broken files make PIL raise almost anything
        raise ValueError("picture is unreadable") from None
    return picture, size, keeps_size


def _upright(picture: Image.Image) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what is damaged but not needed
            return ImageOps.exif_transpose(picture)
    except Exception:  # training could not read it either
        raise ValueError("picture has unreadable EXIF data") from None


def _eight_bits(picture: Image.Image) -> Image.Image:
    """`picture`, grey of 16 bits as grey of 8, which Pillow would cut off at 255."""
    if picture.mode == "F":
        raise ValueError("picture has floats for pixels")
    if not picture.mode.startswith("I"):
        return picture
    grey = np.asarray(picture).astype(np.float64) / 257
    return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))


def _size(size: tuple[int, int], how: Processing) -> tuple[int, int]:
    most = how.image_longest or how.image_shortest
    if most is None:
        return size
    side = max(size) if how.image_longest else min(size)
    scale = min(1.0, most / side)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
