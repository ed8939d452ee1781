"""Sound in and out of bytes: decode anything libsndfile reads, mix to mono, resample, encode as
FLAC.
"""

from __future__ import annotations

import io

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from mmfm_prep.errors import PrepError

Wave = NDArray[np.float32]


def decode(data: bytes) -> tuple[Wave, int]:
    """Mono samples in [-1, 1] and their rate in Hz. ValueError where `data` is no sound."""
    try:
        wave, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except soundfile.SoundFileError:  # what it says names an address, so no two are alike
        raise ValueError("not a readable sound") from None
    return wave.mean(axis=1), int(rate)


def resample(wave: Wave, rate: int, to_rate: int) -> Wave:
    """`wave` at `to_rate` Hz."""
    if rate == to_rate:
        return wave
    resampled: Wave = soxr.resample(wave, rate, to_rate).astype(np.float32)
    return resampled


def trim(wave: Wave, rate: int, *, threshold_db: float = -45.0, margin: float = 0.03) -> Wave:
    """`wave` without the silence at both ends: what is `threshold_db` below its peak, less `margin`
    seconds.
    """
    peak = float(np.abs(wave).max(initial=0.0))
    loud = np.flatnonzero(np.abs(wave) > peak * 10 ** (threshold_db / 20))
    if peak == 0.0 or not len(loud):
        return wave[:0]
    extra = int(margin * rate)
    return wave[max(0, loud[0] - extra) : loud[-1] + extra + 1]


def rms(wave: Wave) -> float:
    """Root mean square of `wave`, 0 where it is empty."""
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64)))) if len(wave) else 0.0


def to_level(wave: Wave, level: float = 0.1) -> Wave:
    """`wave` at RMS `level`, its peaks kept within ±0.99."""
    loudness = rms(wave)
    if loudness == 0.0:
        return wave
    gain = min(level / loudness, 0.99 / float(np.abs(wave).max()))
    return (wave * gain).astype(np.float32)


def to_loudness(wave: Wave, rate: int, lufs: float) -> Wave:
    """`wave` at a loudness of `lufs` (ITU-R BS.1770), its peaks kept within ±0.99; one too quiet to
    have a loudness (below -70 LUFS) as it is. PrepError where pyloudnorm isn't installed.
    """
    try:
        import pyloudnorm
    except ModuleNotFoundError:
        raise PrepError("loudness needs pyloudnorm: pip install 'mmfm[filters]'") from None
    block = min(0.4, len(wave) / rate)  # of a shorter sound all of it
    loudness = pyloudnorm.Meter(rate, block_size=block).integrated_loudness(wave)
    if not np.isfinite(loudness):
        return wave
    gain = min(10 ** ((lufs - loudness) / 20), 0.99 / float(np.abs(wave).max()))
    louder: Wave = (wave * gain).astype(np.float32)
    return louder


def encode(wave: Wave, rate: int, ending: str = "flac") -> bytes:
    """16-bit mono ``flac`` or ``wav``."""
    out = io.BytesIO()
    soundfile.write(out, wave, rate, format=ending.upper(), subtype="PCM_16")
    return out.getvalue()
