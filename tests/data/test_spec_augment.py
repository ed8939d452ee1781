"""SpecAugment on the sound: where it is masked, what is left alone, what the encoder sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mmfm.data.augment_audio import spec_augment
from mmfm.layers.log_mel import LogMel

RATE = 16_000


class Fixed:
    """Widths and places in turn, in place of a generator."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def uniform(self, low: float, high: float) -> float:
        value = self.values.pop(0)
        assert low <= value <= high
        return value


def noise(seconds: float = 1.0) -> Any:
    """Noise that gets louder and whose high pitches are soft."""
    rng = np.random.default_rng(0)
    white = rng.standard_normal(int(RATE * seconds)).astype(np.float32)
    red = np.convolve(white, np.ones(8) / 8, "same")
    return (red * np.linspace(0.1, 1.0, len(red))).astype(np.float32)


def test_without_masks_the_sound_is_the_same() -> None:
    wave = noise()
    found = spec_augment(wave, RATE, (0, 0.0), (0, 0.0), np.random.default_rng(0))
    np.testing.assert_allclose(found, wave, atol=1e-6)
    assert found.dtype == np.float32


def test_a_stretch_of_time_is_as_loud_as_the_clip_on_average() -> None:
    wave = noise()
    masks: Any = Fixed(0.2, 0.7)  # a fifth of the clip, from 0.7 on
    found = spec_augment(wave, RATE, (1, 0.2), (0, 0.0), masks)
    power = [
        np.mean(np.abs(np.fft.rfft(x[int(0.75 * RATE) : int(0.85 * RATE)])) ** 2, dtype=float)
        for x in (found, wave)
    ]
    assert power[0] < 0.5 * power[1]  # the clip is loud there
    untouched = slice(0, int(0.66 * RATE))
    np.testing.assert_allclose(found[untouched], wave[untouched], atol=1e-6)
    behind = slice(int(0.94 * RATE), None)
    np.testing.assert_allclose(found[behind], wave[behind], atol=1e-6)


def test_what_is_masked_is_near_the_mean_of_the_normalised_spectrogram() -> None:
    wave = noise()
    masks: Any = Fixed(0.2, 0.7)
    found = spec_augment(wave, RATE, (1, 0.2), (0, 0.0), masks)
    mel = LogMel(RATE, 400, 160, 40)
    before, after = (mel(torch.from_numpy(x)[None])[0] for x in (wave, found))
    inside = slice(73, 87)
    assert abs(after[inside].mean()) < 0.5 * before[inside].mean()
    assert after[inside].std() < 0.5 * before[inside].std()


def test_a_band_of_pitch_is_masked_from_start_to_end() -> None:
    wave = noise()
    masks: Any = Fixed(0.25, 0.5)
    found = spec_augment(wave, RATE, (0, 0.0), (1, 0.25), masks)
    before, after = (np.abs(np.fft.rfft(x)) for x in (wave, found))
    hz = np.fft.rfftfreq(len(wave), 1 / RATE)
    top = np.log1p(RATE / 2 / 700)
    mel = np.log1p(hz / 700) / top
    inside, outside = (mel > 0.55) & (mel < 0.7), (mel < 0.42) | (mel > 0.82)
    assert np.abs(np.log(after[inside] / before[inside])).mean() > 0.3
    np.testing.assert_allclose(after[outside], before[outside], rtol=0.05, atol=0.5)


@pytest.mark.parametrize("length", [1, 300, 512])
def test_a_clip_shorter_than_the_window_stays(length: int) -> None:
    wave = np.ones(length, np.float32)
    assert spec_augment(wave, RATE, (1, 0.5), (1, 0.5), np.random.default_rng(0)) is wave


def test_silence_stays_finite() -> None:
    found = spec_augment(
        np.zeros(RATE, np.float32), RATE, (2, 0.5), (2, 0.5), np.random.default_rng(1)
    )
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 1e-5
