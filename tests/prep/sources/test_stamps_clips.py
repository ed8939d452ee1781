"""What of the stamps is dropped, and why."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from mmfm_prep import sound
from mmfm_prep.sources.stamps import convert_clip, convert_picture


def test_pictures_that_show_nothing_are_dropped_with_a_reason() -> None:
    white = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    white.paste((255, 255, 255, 255), (2, 2, 6, 6))
    out = io.BytesIO()
    white.save(out, "PNG")
    assert convert_picture(out.getvalue(), 16) == "picture: nothing to be seen on white"
    assert convert_picture(b"nothing", 16) == "picture: not readable"
    assert convert_picture(b"<svg", 16) == "picture: not readable"


def test_clips_are_dropped_with_a_reason_or_brought_to_rate_and_level() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 44100).astype("f4")
    assert convert_clip(b"nothing", 16000, 10) == "clip: not readable"
    quiet = sound.encode(noise * 0.01, 44100)
    assert convert_clip(quiet, 16000, 10) == "clip: silent"
    clip = sound.encode(noise, 44100)
    assert convert_clip(clip, 16000, 0.5) == "clip: longer than 0.5 s"
    converted = convert_clip(clip, 16000, 10)
    assert isinstance(converted, bytes)
    wave, rate = sound.decode(converted)
    assert (len(wave), rate) == (16000, 16000)
    assert abs(sound.rms(wave) - 0.1) < 1e-3
