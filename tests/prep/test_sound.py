"""Sound: decoding, trimming, levels and the way back to bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from mmfm_prep import sound


def tone(rate: int, seconds: float, pitch: float = 440.0) -> sound.Wave:
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(int(rate * seconds)) / rate)).astype("f4")


@pytest.mark.parametrize("ending", ["flac", "wav"])
def test_what_is_encoded_is_decoded(ending: str) -> None:
    wave = tone(16000, 0.1)
    back, rate = sound.decode(sound.encode(wave, 16000, ending))
    assert rate == 16000
    assert np.abs(back - wave).max() <= 1 / 32768


def test_stereo_becomes_the_mean_of_both() -> None:
    out = io.BytesIO()
    both = np.stack([tone(8000, 0.1), np.zeros(800, "f4")], 1)
    soundfile.write(out, both, 8000, format="WAV", subtype="FLOAT")
    wave, _ = sound.decode(out.getvalue())
    np.testing.assert_allclose(wave, both[:, 0] / 2, atol=1e-7)


def test_resampling_keeps_pitch_and_length() -> None:
    wave = sound.resample(tone(44100, 0.5), 44100, 16000)
    assert len(wave) == 8000
    assert wave.dtype == np.float32
    peak = np.argmax(np.abs(np.fft.rfft(wave))) * 16000 / len(wave)
    assert abs(peak - 440) < 2


def test_trim_takes_silence_from_both_ends_only() -> None:
    quiet = np.zeros(8000, "f4")
    wave = np.concatenate([quiet, tone(8000, 0.2), quiet[:800], tone(8000, 0.2), quiet])
    trimmed = sound.trim(wave, 8000, margin=0.01)
    assert abs(len(trimmed) - (1600 + 800 + 1600 + 160)) <= 10
    assert len(sound.trim(quiet, 8000)) == 0
    assert len(sound.trim(quiet[:0], 8000)) == 0


def test_level() -> None:
    assert abs(sound.rms(sound.to_level(tone(8000, 0.1), 0.1)) - 0.1) < 1e-6
    click = np.zeros(8000, "f4")
    click[100] = 0.01
    assert np.abs(sound.to_level(click, 0.1)).max() == pytest.approx(0.99)
    assert not sound.to_level(np.zeros(8, "f4")).any()


def test_what_is_no_sound_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="not a readable sound"):
        sound.decode(b"nothing")
