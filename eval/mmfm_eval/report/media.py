"""Pictures and sounds as data URIs, so that the page needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from mmfm.data.transforms import audio, image

_SOUND_TYPES = {"flac": "audio/flac", "wav": "audio/wav", "ogg": "audio/ogg", "mp3": "audio/mpeg"}
# Dark violet ▶ orange ▶ pale yellow, of steadily rising lightness: quiet to loud.
_HEAT = np.array(
    [(13, 8, 40), (75, 18, 107), (150, 38, 110), (221, 81, 74), (252, 165, 60), (252, 246, 190)],
    dtype=np.float64,
)


def data_uri(content: bytes, kind: str) -> str:
    """`content` of the media type `kind`, in the text of a link."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def picture(files: Mapping[str, bytes], side: int = 96) -> str:
    """The picture among a sample's files, at most `side` pixels wide and high, on white."""
    content = next(files[e] for e in image.ENDINGS if e in files)
    with Image.open(io.BytesIO(content), formats=image.FORMATS) as opened:
        drawn = opened.convert("RGBA")
    drawn.thumbnail((side, side), Image.Resampling.LANCZOS)
    paper = Image.new("RGBA", drawn.size, "white")
    return _webp(Image.alpha_composite(paper, drawn).convert("RGB"), quality=82)


def pixels(values: NDArray[Any]) -> str:
    """[H,W,3] colours in 0..1 as a picture, pixel by pixel."""
    whole = (255 * np.clip(values, 0, 1)).round().astype(np.uint8)
    return _webp(Image.fromarray(whole), quality=88)


def heat(values: NDArray[Any], low: float, high: float, hidden: NDArray[Any] | None = None) -> str:
    """[H,W] numbers as colours, `low` dark and `high` light; grey where `hidden`."""
    at = np.clip((values - low) / max(high - low, 1e-9), 0, 1) * (len(_HEAT) - 1)
    below = np.minimum(at.astype(int), len(_HEAT) - 2)
    share = (at - below)[..., None]
    colours = _HEAT[below] * (1 - share) + _HEAT[below + 1] * share
    if hidden is not None:
        colours[hidden.astype(bool)] = 150
    return pixels(colours / 255)


def sound(files: Mapping[str, bytes]) -> str:
    """The sound among a sample's files, as it is."""
    ending = next(e for e in audio.ENDINGS if e in files)
    return data_uri(files[ending], _SOUND_TYPES[ending])


def loudness(files: Mapping[str, bytes], bars: int = 48) -> list[float]:
    """The peak of each of `bars` equal parts of the sound, the loudest being 1."""
    ending = next(e for e in audio.ENDINGS if e in files)
    wave, _ = soundfile.read(io.BytesIO(files[ending]), dtype="float32", always_2d=True)
    parts = np.array_split(np.abs(wave).max(axis=1), bars)
    peaks = np.array([part.max() if len(part) else 0.0 for part in parts])
    return [round(float(p), 3) for p in peaks / max(float(peaks.max()), 1e-9)]


def _webp(drawn: Image.Image, quality: int) -> str:
    out = io.BytesIO()
    drawn.save(out, "WEBP", quality=quality, method=4)
    return data_uri(out.getvalue(), "image/webp")
