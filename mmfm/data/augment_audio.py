"""SpecAugment (arXiv:1904.08779) on the sound itself, so that it holds for every encoder: stretches
of time and bands of pitch become as loud as the clip is on average.

    data.transforms.audio: {type: audio, time_masks: [2, 0.2], band_masks: [2, 0.15]}

The paper masks the spectrogram with its mean, which is 0 where it is normalised. Here the same
places of a short-time Fourier transform get the clip's mean log magnitude and keep their phases.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

WINDOW_S = 0.032
_QUIET = 1e-7

Masks = tuple[int, float]
"""How many, and how wide the widest is."""


def spec_augment(
    wave: NDArray[np.float32],
    sample_rate: int,
    time_masks: Masks,
    band_masks: Masks,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """`wave` [S] with masked stretches, whose width is a share of the clip, and masked bands, whose
    width is a share of the mel scale up to half of `sample_rate`; each width is drawn from 0 up.
    """
    n_fft = 2 ** max(4, round(math.log2(WINDOW_S * sample_rate)))
    if len(wave) <= n_fft:
        return wave
    window = torch.hann_window(n_fft, dtype=torch.float64)
    sound = torch.from_numpy(wave).double()
    spectrum = torch.stft(sound, n_fft, n_fft // 4, window=window, return_complex=True)
    bins, frames = spectrum.shape
    hz = torch.linspace(0, sample_rate / 2, bins, dtype=torch.float64)
    mel = torch.log1p(hz / 700)  # as HTK has it, up to a factor
    time = torch.arange(frames, dtype=torch.float64) / frames
    masked = torch.zeros(bins, frames, dtype=torch.bool)
    for place, (number, widest) in ((time, time_masks), (mel / mel[-1], band_masks)):
        for _ in range(number):
            width = rng.uniform(0, widest)
            first = rng.uniform(0, 1 - width)
            inside = (place >= first) & (place < first + width)
            masked |= inside[None, :] if place is time else inside[:, None]
    size = spectrum.abs().clamp(min=_QUIET)
    # Where a sound is like noise, the logarithm of its power is that much below that of its mean.
    # The mean is that over the mel scale, on which low pitches are wide.
    each = size.log().mean(1) + np.euler_gamma / 2
    weight = 1 / (700 + hz)
    level = ((each * weight).sum() / weight.sum()).exp()
    changed = torch.where(masked, spectrum * (level / size), spectrum)
    back = torch.istft(changed, n_fft, n_fft // 4, window=window, length=len(wave))
    return back.float().numpy()
