"""Sounds by length, and those that are the same sound."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from mmfm_prep.filters import Unwanted
from mmfm_prep.filters.audio import AudioFilter, NearSounds, signature
from mmfm_prep.sound import decode, resample
from tests.prep.filters.near import add

RATE = 16000


def tune(seed: int, seconds: float = 3.0) -> np.ndarray:
    """Tones that come and go, with overtones and noise: something like a clip."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    wave = 0.01 * rng.standard_normal(len(time))
    for start in np.arange(0, seconds, 0.15):
        pitch, loud = rng.uniform(150, 900), rng.uniform(0.1, 0.3)
        envelope = np.exp(-8 * np.clip(time - start, 0, None)) * (time >= start)
        for overtone in (1, 2, 3):
            wave += loud / overtone * envelope * np.sin(2 * np.pi * pitch * overtone * time)
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


def as_ogg(wave: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    soundfile.write(file, wave, RATE, format="OGG")
    return decode(file.getvalue())[0]


@pytest.mark.parametrize(
    ("settings", "seconds", "reason"),
    [({"min_seconds": 0.5}, 0.4, "shorter than 0.5"), ({"max_seconds": 9}, 9.1, "longer than 9")],
)
def test_lengths(settings: dict, seconds: float, reason: str) -> None:
    with pytest.raises(Unwanted, match=reason):
        AudioFilter(**settings).check(seconds)
    AudioFilter(min_seconds=1, max_seconds=1).check(1)


@pytest.mark.parametrize("name", ["min_seconds", "max_seconds"])
def test_refused_settings(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        AudioFilter(**{name: 0})


def test_copies_are_found_and_others_are_not() -> None:
    near = NearSounds(0.35)
    tunes = [tune(seed) for seed in range(20)]
    for number, wave in enumerate(tunes):
        assert add(near, number, signature(wave, RATE)) is None
    for number, wave in enumerate(tunes):
        padded = np.concatenate([np.zeros(2345, np.float32), wave])
        for copy in (as_ogg(wave), 0.3 * wave, padded, wave[3000:]):
            assert add(near, 1000, signature(copy.astype(np.float32), RATE)) == number
        other_rate = resample(wave, RATE, 22050)
        assert add(near, 1000, signature(other_rate, 22050)) == number


def test_padding_does_not_make_clips_the_same() -> None:
    near = NearSounds(0.35)
    for number in range(8):
        padded = np.concatenate([tune(number, 1.0), np.zeros(5 * RATE, np.float32)])
        assert add(near, number, signature(padded, RATE)) is None
        assert add(near, 1000, signature(0.5 * padded, RATE)) == number


def test_a_part_is_not_the_whole() -> None:
    near = NearSounds(0.35)
    wave = tune(0, 6.0)
    assert add(near, 0, signature(wave, RATE)) is None
    assert add(near, 1, signature(wave[: 3 * RATE], RATE)) is None


def test_a_long_sound_has_the_bits_of_its_parts() -> None:
    wave = tune(1, 9.0)  # more than one block of frames
    whole = signature(wave, 5512)
    assert len(whole) == 4 * ((len(wave) - 2048) // 64)
    assert signature(wave[: 2048 + 64 * 100], 5512) == whole[:400]


def test_a_very_short_sound_has_no_signature() -> None:
    assert signature(tune(0)[:1000], RATE) == b""


def test_errors_are_a_share_below_a_half() -> None:
    with pytest.raises(ValueError, match=r"below 0\.5"):
        NearSounds(0.5)
