"""Sound in and out of bytes: decode anything libsndfile reads, mix to mono, resample, encode as
FLAC.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from mmfm_prep.errors import PrepError

Wave = NDArray[np.float32]
_BLOCK = 1 << 20
_LEAST_HZ = 1000


def decode(data: bytes) -> tuple[Wave, int]:
    """Mono samples in [-1, 1] and their rate in Hz. ValueError where `data` is no sound."""
    wave, rate, _ = read(data)
    return wave, rate


def read(
    data: bytes, look: Callable[[float], None] = lambda seconds: None
) -> tuple[Wave, int, str]:
    """As `decode`, with the name of the file's format (``FLAC``). `look` hears the seconds that the
    header tells before anything is decoded, and may raise.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.samplerate < _LEAST_HZ:  # at another rate it would be as long as damage has it
                raise ValueError(f"sound has a rate under {_LEAST_HZ} Hz")
            look(file.frames / file.samplerate)
            blocks = [np.empty(0, np.float32)]
            # By blocks: a damaged header may tell of terabytes.
            while len(block := file.read(_BLOCK, "float32", always_2d=True)):
                blocks.append(block.mean(axis=1))
            wave = np.concatenate(blocks)
            return wave, int(file.samplerate), str(file.format)
    except soundfile.SoundFileError:  # its text has an address, which is another each time
        raise ValueError("not a readable sound") from None


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
    # Of a shorter sound all of it, less what rounding may add.
    block = min(0.4, float(np.nextafter(len(wave) / rate, 0)))
    loudness = pyloudnorm.Meter(rate, block_size=block).integrated_loudness(wave)
    if not np.isfinite(loudness):
        return wave
    gain = min(10 ** ((lufs - loudness) / 20), 0.99 / float(np.abs(wave).max()))
    louder: Wave = (wave * gain).astype(np.float32)
    return louder


def encode(wave: Wave, rate: int, ending: str = "flac") -> bytes:
    """16-bit mono ``flac`` or ``wav``. ValueError where the format has no such rate."""
    out = io.BytesIO()
    try:
        soundfile.write(out, wave, rate, format=ending.upper(), subtype="PCM_16")
    except soundfile.SoundFileError:
        raise ValueError(f"sound can't be written as {ending} at {rate} Hz") from None
    return out.getvalue()
