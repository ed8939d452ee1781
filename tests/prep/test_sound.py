"""Sound: decoding, trimming, levels and the way back to bytes."""

from __future__ import annotations

import contextlib
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


def test_a_header_that_tells_of_terabytes() -> None:
    """The total of a FLAC file stands in its header, and can be anything."""
    data = bytearray(sound.encode(tone(8000, 0.5), 8000))
    data[21:26] = bytes([data[21] | 0x0F, 0xFF, 0xFF, 0xFF, 0xFF])
    with contextlib.suppress(ValueError):
        assert len(sound.decode(bytes(data))[0]) <= 4000


def test_reasons_are_the_same_for_all() -> None:
    reasons = set()
    for data in (b"nothing", b"", b"RIFF" + bytes(100)):
        with pytest.raises(ValueError, match="not a readable sound") as caught:
            sound.decode(data)
        reasons.add(str(caught.value))
    assert len(reasons) == 1


def test_loudness_of_any_length() -> None:
    for rate in (7999, 11025, 44100):
        for length in (1, 2, 3, 7, 29, 3199, rate * 2 // 5, rate):
            louder = sound.to_loudness(tone(rate, length / rate + 1e-9), rate, -23.0)
            assert np.isfinite(louder).all()


def test_a_rate_that_is_none_is_refused() -> None:
    data = bytearray(sound.encode(tone(8000, 0.5), 8000, "wav"))
    data[24:28] = (1).to_bytes(4, "little")
    with pytest.raises(ValueError, match="rate under 1000 Hz"):
        sound.decode(bytes(data))
