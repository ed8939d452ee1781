"""Sound: FLAC, WAV, Ogg or MP3 ▶ a mono waveform [S] float32 at the encoder's sample rate.

Only the seconds that are needed are read. A clip longer than the encoder's `max_samples` is cut: at
its start in evaluation, anywhere in training if `random_crop`. A batch is padded with zeros to its
longest clip, rounded up to 100 ms, with a mask.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from mmfm.data.augment_audio import Masks, spec_augment
from mmfm.data.transforms.base import BadSample, Transform, from_spec, media_file

ENDINGS = ("flac", "wav", "ogg", "mp3")

_CROP_ATTEMPTS = 8
_MAX_CHANNELS = 32
_SAMPLE_RATES = (1_000, 768_000)
_MP3_RUN_UP = 9216  # after a seek, an MP3 is noise until the data that frames share are read again


@dataclass(kw_only=True)
class Config:
    """`gain_db`: training clips are made louder or softer by up to this many decibels."""

    random_crop: bool = False
    speed: float = 0.0
    """Training clips are played faster or slower by up to this share, higher or lower with it."""
    noise_snr_db: tuple[float, float] | None = None
    """White noise in training clips: how many decibels below the sound it lies, (low, high)."""
    gain_db: float = 0.0
    time_masks: Masks = (0, 0.0)
    """SpecAugment: how many stretches of time are masked, each up to this share of the clip."""
    band_masks: Masks = (0, 0.0)
    """How many bands of pitch are masked, each up to this share of the mel scale."""
    silence_db: float = -80.0
    """A clip whose peak lies below this (decibels of full scale) is a bad sample."""
    max_seconds: float = 600.0
    max_bytes: int = 100_000_000

    def __post_init__(self) -> None:
        if self.gain_db < 0:
            raise ValueError(f"gain_db = {self.gain_db} must be 0 or more")
        if not 0 <= self.speed < 1:
            raise ValueError(f"speed = {self.speed} is a share, from 0 to below 1")
        if self.noise_snr_db is not None and not self.noise_snr_db[0] <= self.noise_snr_db[1]:
            raise ValueError(f"noise_snr_db = {self.noise_snr_db} must be (low, high)")
        for name in ("time_masks", "band_masks"):
            number, widest = getattr(self, name)
            if number < 0 or not 0 <= widest <= 1:
                raise ValueError(
                    f"{name} = [{number}, {widest}]: a number, and a share from 0 to 1"
                )

    def build(self, spec: Mapping[str, Any]) -> AudioTransform:
        """The transform for an encoder with ``spec = {sample_rate, max_samples}``."""
        return AudioTransform(
            config=self,
            sample_rate=from_spec(spec, "sample_rate", int, "audio"),
            max_samples=from_spec(spec, "max_samples", int, "audio"),
        )


@dataclass
class AudioTransform(Transform):
    """See the module; `decode` gives [S] float32 with 0 < S <= max_samples."""

    config: Config
    sample_rate: int
    max_samples: int
    augments: bool = field(init=False)

    def __post_init__(self) -> None:
        drawn = self.config.random_crop or self.config.gain_db > 0 or self.config.speed > 0
        masks = self.config.time_masks[0] > 0 or self.config.band_masks[0] > 0
        self.augments = drawn or masks or self.config.noise_snr_db is not None

    def contents(self, files: Mapping[str, bytes], meta: Mapping[str, Any]) -> list[bytes]:
        return [media_file(files, ENDINGS, "audio", self.config.max_bytes)]

    def content_of_object(self, item: Any) -> bytes:
        """Of a path as a string, or a waveform [S] of floats at the encoder's sample rate."""
        if isinstance(item, str):
            return self.content_of(Path(item))
        wave = np.asarray(item)
        if wave.ndim != 1 or not np.issubdtype(wave.dtype, np.floating):
            raise ValueError(
                f"a waveform must be floats [S] at {self.sample_rate} Hz, not {wave.dtype} "
                f"{list(wave.shape)}"
            )
        file = io.BytesIO()
        soundfile.write(file, wave, self.sample_rate, format="WAV", subtype="FLOAT")
        return file.getvalue()

    def decode_content(self, content: bytes, rng: np.random.Generator, train: bool) -> Any:
        speed = 1.0
        if train and self.config.speed > 0:
            speed = rng.uniform(1 - self.config.speed, 1 + self.config.speed)
        try:
            with soundfile.SoundFile(io.BytesIO(content)) as sound:
                wave = self._read(sound, rng, train, self.max_samples / self.sample_rate * speed)
                rate = sound.samplerate * speed
        except (soundfile.SoundFileError, OSError, ValueError, RuntimeError) as error:
            if isinstance(error, BadSample):
                raise
            detail = f"{type(error).__name__}: {error}"
            raise BadSample("audio unreadable", detail=detail) from None
        if rate != self.sample_rate:
            wave = soxr.resample(wave, rate, self.sample_rate)
        wave = np.ascontiguousarray(wave[: self.max_samples], dtype=np.float32)
        if not len(wave):
            raise BadSample("audio empty")
        if train and self.config.noise_snr_db is not None:
            wave = _add_noise(wave, rng.uniform(*self.config.noise_snr_db), rng)
        if train and self.config.gain_db > 0:
            gain = rng.uniform(-self.config.gain_db, self.config.gain_db)
            wave = wave * np.float32(10 ** (gain / 20))
        times, bands = self.config.time_masks, self.config.band_masks
        if train and (times[0] or bands[0]):
            wave = spec_augment(wave, self.sample_rate, times, bands, rng)
        return wave

    def collate(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """{"audio": [B, S] float32, "audio_mask": [B, S] bool, True where there is sound}."""
        longest = max(len(item) for item in items)
        step = max(1, self.sample_rate // 10)
        # Never beyond what the encoder takes, even where that is no multiple of 100 ms.
        length = max(longest, min(math.ceil(longest / step) * step, self.max_samples))
        audio = torch.zeros(len(items), length)
        mask = torch.zeros(len(items), length, dtype=torch.bool)
        for row, item in enumerate(items):
            audio[row, : len(item)] = torch.from_numpy(item)
            mask[row, : len(item)] = True
        return {"audio": audio, "audio_mask": mask}

    def _read(
        self, sound: soundfile.SoundFile, rng: np.random.Generator, train: bool, seconds: float
    ) -> Any:
        """The part of `sound` that is used, mono, at the file's own rate: `seconds` of it."""
        rate, frames = sound.samplerate, sound.frames
        if not _SAMPLE_RATES[0] <= rate <= _SAMPLE_RATES[1] or sound.channels > _MAX_CHANNELS:
            detail = f"{rate} Hz, {sound.channels} channels"
            raise BadSample("audio has an unusable format", detail=detail)
        if frames <= 0:
            raise BadSample("audio empty")
        if frames > self.config.max_seconds * rate:
            raise BadSample("audio too long", detail=f"{frames / rate:.1f} s")
        # A little more than needed, so that resampling has its context at the end.
        needed = math.ceil((seconds + 0.05) * rate)
        length = math.ceil(seconds * rate)
        spare = max(0, frames - length)
        crop = train and self.config.random_crop and spare > 0
        for _ in range(_CROP_ATTEMPTS if crop else 1):  # a long clip may have silent stretches
            start = int(rng.integers(spare + 1)) if crop else 0
            wave = _read_from(sound, start, needed)
            if not np.isfinite(wave).all():
                raise BadSample("audio not finite")
            if crop and len(wave) < length:  # the file told more frames than it has, as an MP3 may
                spare = max(0, start + len(wave) - length)
            elif len(wave) and np.abs(wave).max() >= 10 ** (self.config.silence_db / 20):
                return wave
        raise BadSample("audio silent" if len(wave) else "audio empty")


def _read_from(sound: soundfile.SoundFile, start: int, frames: int) -> Any:
    """`frames` of `sound` from `start` on, mono float32; fewer where it ends."""
    run_up = min(start, _MP3_RUN_UP) if sound.format == "MP3" else 0
    sound.seek(start - run_up)
    # In one go: soundfile seeks after each read, so that the next one would need a run-up again.
    wave = sound.read(run_up + frames, dtype="float32", always_2d=True)
    return wave[run_up:].mean(axis=1)


def _add_noise(wave: Any, snr_db: float, rng: np.random.Generator) -> Any:
    """`wave` [S] float32 with white noise that lies `snr_db` decibels below it."""
    from torchaudio.functional import add_noise  # seconds to import

    noise = torch.from_numpy(rng.standard_normal(len(wave), dtype=np.float32))
    return add_noise(torch.from_numpy(wave), noise, torch.tensor(snr_db)).numpy()
