"""Which sounds go into the shards, and which sound alike.

mmfm data make audio_folder clips data/clips filters.audio.min_seconds=0.5 filters.near.audio=0.25
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mmfm_prep.filters import Unwanted
from mmfm_prep.sound import Wave, resample

RATE = 5512
_FRAME, _HOP = 2048, 64  # 0.37 s windows, 86 a second: as in the paper
_BANDS = np.geomspace(300, 2000, 34)
_KEPT = 8  # every eighth fingerprint of a sound is remembered, all of the next one are looked up
_OVERLAP = 0.8


@dataclass(kw_only=True)
class AudioFilter:
    """How long a sound may be, in seconds."""

    min_seconds: float | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("min_seconds", "max_seconds"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"{name} = {value} must be above 0")

    def check(self, seconds: float) -> None:
        """`Unwanted` where a sound of so many seconds is not to be kept."""
        if self.min_seconds is not None and seconds < self.min_seconds:
            raise Unwanted(f"sound shorter than {self.min_seconds:g} s")
        if self.max_seconds is not None and seconds > self.max_seconds:
            raise Unwanted(f"sound longer than {self.max_seconds:g} s")


def signature(wave: Wave, rate: int) -> bytes:
    """The fingerprints of a sound, 32 bits for each 12 ms: whether the energy difference of
    neighbouring bands rises (Haitsma and Kalker, "A Highly Robust Audio Fingerprinting System",
    2002). Empty for a sound under 0.4 s.
    """
    wave = resample(wave, rate, RATE)
    if len(wave) < _FRAME + _HOP:
        return b""
    frames = np.lib.stride_tricks.sliding_window_view(wave, _FRAME)[::_HOP]
    edges = np.round(_BANDS * _FRAME / RATE).astype(int)
    bits = []
    before: NDArray[np.float64] | None = None
    for part in np.array_split(frames, -(-len(frames) // 512)):  # bounded memory for long sounds
        power = np.abs(np.fft.rfft(part * np.hanning(_FRAME))) ** 2
        energy = np.stack([power[:, a:b].sum(1) for a, b in pairwise(edges)], 1)
        step = energy[:, :-1] - energy[:, 1:]
        whole = step if before is None else np.concatenate([before, step])
        bits.append(np.packbits(whole[1:] - whole[:-1] > 0, axis=1))
        before = step[-1:]
    return np.concatenate(bits).tobytes()


class NearSounds:
    """Signatures of sounds, to find the first that is the same sound.

    Two are where, laid one upon the other, they overlap for 80 % of the longer one and at most
    `errors` of the bits differ there (0.35 in the paper; unrelated sounds differ in half of them).
    Where both are silent nothing is compared: padding does not make clips the same. About 3 kB for
    each second.
    """

    def __init__(self, errors: float) -> None:
        if not 0 <= errors < 0.5:
            raise ValueError(f"near duplicates of sounds: {errors} must be at least 0, below 0.5")
        self.errors = errors
        self._sounds: dict[int, NDArray[np.uint8]] = {}
        self._places: dict[int, list[tuple[int, int]]] = {}

    def find(self, signature: bytes) -> int | None:
        """The number of the first remembered sound that is the same."""
        bits = _bits(signature)
        shifts = {
            (other, at - place)
            for word, place in _first_places(bits).items()
            for other, at in self._places.get(word, ())
        }
        for other, shift in sorted(shifts):
            if self._same(bits, self._sounds[other], shift):
                return other
        return None

    def remember(self, number: int, signature: bytes) -> None:
        bits = self._sounds[number] = _bits(signature)
        for word, place in _first_places(bits).items():
            if place % _KEPT == 0:
                self._places.setdefault(word, []).append((number, place))

    def _same(self, one: NDArray[np.uint8], other: NDArray[np.uint8], shift: int) -> bool:
        """Whether `one` is `other` from its place `shift` on."""
        start, end = max(0, -shift), min(len(one), len(other) - shift)
        if end - start < _OVERLAP * max(len(one), len(other)):
            return False
        one, other = one[start:end], other[start + shift : end + shift]
        heard = np.count_nonzero((one | other).any(1))
        differ = np.bitwise_count(one ^ other).sum()
        return bool(differ <= self.errors * 32 * heard)


def _bits(signature: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(signature, np.uint8).reshape(-1, 4)


def _first_places(bits: NDArray[np.uint8]) -> dict[int, int]:
    """Where each fingerprint occurs first. Not silence's, which all sounds share; a steady tone is
    one fingerprint over and over, and its first place is enough to lay two upon each other.
    """
    words = bits.view(">u4").ravel()
    found, places = np.unique(words, return_index=True)
    return {
        word: place for word, place in zip(found.tolist(), places.tolist(), strict=True) if word
    }
