"""Crops of long sounds in every format: the right frames, and no more of the file than needed."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from mmfm.data.transforms import audio

RATE = 16000
SECONDS = 20
TIME = np.arange(SECONDS * RATE) / RATE
CHIRP = 0.4 * np.sin(2 * np.pi * (200 + 100 * TIME) * TIME)
WAVE = (CHIRP + 0.05 * np.random.default_rng(0).standard_normal(len(TIME))).astype(np.float32)

LOW_RATE_MP3 = {"compression_level": 0.99, "bitrate_mode": "CONSTANT"}
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("WAV", {}),
    ("FLAC", {}),
    ("OGG", {}),
    ("MP3", {}),
    ("MP3", LOW_RATE_MP3),
]


def written(wave: np.ndarray, rate: int, kind: str, options: dict[str, Any]) -> bytes:
    """In parts: libsndfile's Vorbis encoder can't take much at once."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, 1, format=kind, **options) as sound:
        for start in range(0, len(wave), 8192):
            sound.write(wave[start : start + 8192])
    return file.getvalue()


def make(sample_rate: int, seconds: float, **settings: Any) -> audio.AudioTransform:
    spec = {"sample_rate": sample_rate, "max_samples": int(seconds * sample_rate)}
    return audio.Config(**settings).build(spec)


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_crop_equals_that_part_of_the_whole(kind: str, options: dict[str, Any]) -> None:
    content = written(WAVE, RATE, kind, options)
    with soundfile.SoundFile(io.BytesIO(content)) as sound:
        whole = sound.read(dtype="float32")
        spare = sound.frames - RATE
    transform = make(RATE, 1.0, random_crop=True)
    for seed in range(25):
        start = int(np.random.default_rng(seed).integers(spare + 1))
        got = transform.decode_content(content, np.random.default_rng(seed), True)
        assert len(got) == RATE
        np.testing.assert_allclose(got, whole[start : start + RATE], atol=1e-5)


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_every_format_is_resampled(kind: str, options: dict[str, Any]) -> None:
    content = written(WAVE, RATE, kind, options)
    got = make(10000, 2.0).decode_content(content, np.random.default_rng(0), False)
    with soundfile.SoundFile(io.BytesIO(content)) as sound:
        expected = soxr.resample(sound.read(dtype="float32"), RATE, 10000)[:20000]
    assert len(got) == 20000
    np.testing.assert_allclose(got, expected, atol=1e-3)
    if kind != "MP3":  # which may begin with a delay of the encoder
        assert np.corrcoef(got, soxr.resample(WAVE, RATE, 10000)[:20000])[0, 1] > 0.99


def test_a_length_that_an_mp3_only_guesses_does_no_harm() -> None:
    """Without a header that tells it, libmpg123 computes it from the first frames' sizes."""
    content = written(np.tile(WAVE, 2), 44100, "MP3", LOW_RATE_MP3)
    with soundfile.SoundFile(io.BytesIO(content)) as sound:
        told, frames = sound.frames, len(sound.read())
    assert told > frames
    transform = make(44100, 0.05, random_crop=True)

    class LastFirst:
        """Draws the last place that there can be, twice, then ones inside."""

        drawn: list[int] = []  # noqa: RUF012

        def integers(self, high: int) -> int:
            self.drawn.append(high)
            return high - 1 if len(self.drawn) < 3 else high // 2

    rng: Any = LastFirst()
    assert len(transform.decode_content(content, rng, True)) == 2205
    assert len(rng.drawn) == 3


@pytest.mark.parametrize(("kind", "crop"), [("FLAC", False), ("FLAC", True), ("MP3", True)])
def test_ten_minutes_are_not_decoded_for_a_second(
    monkeypatch: pytest.MonkeyPatch, kind: str, crop: bool
) -> None:
    content = written(np.tile(WAVE[: 15 * 8000], 40), 8000, kind, {})
    frames, bytes_read = [], []
    read = soundfile.SoundFile.read

    def counted_read(self: Any, wanted: int = -1, *rest: Any, **more: Any) -> Any:
        wave = read(self, wanted, *rest, **more)
        frames.append(len(wave))
        return wave

    class Counted(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            bytes_read.append(super().readinto(buffer))
            return bytes_read[-1]

    monkeypatch.setattr(soundfile.SoundFile, "read", counted_read)
    monkeypatch.setattr(audio, "io", SimpleNamespace(BytesIO=Counted))
    wave = make(16000, 1.0, random_crop=crop).decode_content(
        content, np.random.default_rng(1), True
    )
    assert len(wave) == 16000
    run_up = 9216 if kind == "MP3" and crop else 0
    assert 8000 <= sum(frames) <= 8000 * 1.06 + run_up
    if kind != "MP3":  # which is scanned for its length, without being decoded
        assert 0 < sum(bytes_read) < len(content) / 20
