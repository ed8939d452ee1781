"""Waveform ▶ normalised log-mel spectrogram, the front end of audio encoders; always in float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DYNAMIC_RANGE = (
    8.0  # powers of ten below a clip's loudest bin at which its log-mel is cut (as in Whisper)
)
POWER_FLOOR = 1e-10


def mel_filters(sample_rate: int, n_fft: int, mels: int) -> Tensor:
    """[n_fft/2+1, mels] triangular filters from 0 Hz to half of `sample_rate`, of equal area
    (Slaney's scale and norm).

    The scale is linear up to 1,000 Hz and logarithmic above: what librosa does by default.
    """
    top = _hz_to_mel(sample_rate / 2)
    edges = _mel_to_hz(torch.linspace(0.0, top, mels + 2, dtype=torch.float64))
    bins = torch.linspace(0.0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    slopes = bins[:, None] - edges[None, :]
    widths = edges.diff()
    rising, falling = slopes[:, :-2] / widths[:-1], -slopes[:, 2:] / widths[1:]
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))).float()


def _hz_to_mel(hz: float) -> float:
    return 3 * hz / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)


def _mel_to_hz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15, 200 * mel / 3, 1000 * torch.exp(math.log(6.4) * (mel - 15) / 27))


class LogMel(nn.Module):
    """[B,S] waveform at `sample_rate` ▶ [B,T,mels], each clip with mean 0 and deviation 1 over its
    own frames.

    Frame t is centred at sample t·hop; a clip of n samples has ceil(n / hop) frames, and T is the
    longest clip's count rounded up to a multiple of `multiple`. Beyond its ends a clip is silent,
    so its frames don't depend on how much padding follows. There are no parameters; filters and
    window stay float32 when the model is cast.
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self, sample_rate: int, n_fft: int, hop: int, mels: int, multiple: int = 1
    ) -> None:
        super().__init__()
        self.n_fft, self.hop, self.multiple = n_fft, hop, multiple
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("filters", mel_filters(sample_rate, n_fft, mels), persistent=False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> LogMel:
        """Move with the model, but keep float32: in bfloat16 the filters would lose most of their
        digits.
        """
        window, filters = self.window, self.filters
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.window, self.filters = (
            old.to(new.device) for old, new in ((window, self.window), (filters, self.filters))
        )
        return self

    def forward(self, audio_BS: Tensor, valid_BS: Tensor | None = None) -> Tensor:
        with torch.autocast(audio_BS.device.type, enabled=False):
            log_mel = self.power(audio_BS.float(), valid_BS).clamp(min=POWER_FLOOR).log10()
            frames = self.frame_valid(audio_BS, valid_BS)[..., None]
            top = log_mel.masked_fill(~frames, -math.inf).amax(dim=(1, 2), keepdim=True)
            # A clip of length 0 has no loudest bin.
            top = top.clamp(min=math.log10(POWER_FLOOR))
            log_mel = torch.maximum(log_mel, top - DYNAMIC_RANGE)
            count = (frames.sum(dim=1, keepdim=True) * log_mel.shape[2]).clamp(min=1)
            mean = (log_mel * frames).sum(dim=(1, 2), keepdim=True) / count
            centred = log_mel - mean
            variance = (centred.square() * frames).sum(dim=(1, 2), keepdim=True) / count
            return centred / (variance + 1e-6).sqrt()

    def power(self, audio_BS: Tensor, valid_BS: Tensor | None = None) -> Tensor:
        """[B,T,mels]: the power of each mel band in each frame."""
        if valid_BS is not None:
            audio_BS = audio_BS.masked_fill(~valid_BS, 0.0)
        missing = (
            (self.frames(audio_BS.shape[1]) - 1) * self.hop + self.n_fft // 2 - audio_BS.shape[1]
        )
        audio = F.pad(audio_BS, (self.n_fft // 2, max(missing, 0)))
        spectrum = torch.stft(
            audio, self.n_fft, self.hop, window=self.window, center=False, return_complex=True
        )
        frames = spectrum[..., : self.frames(audio_BS.shape[1])]
        return (frames.real.square() + frames.imag.square()).transpose(1, 2) @ self.filters

    def frames(self, samples: int) -> int:
        """T for the longest clip of a batch."""
        return math.ceil(math.ceil(samples / self.hop) / self.multiple) * self.multiple

    def frame_valid(self, audio_BS: Tensor, valid_BS: Tensor | None = None) -> Tensor:
        """[B,T] bool: the frames whose centre lies in the clip."""
        B, S = audio_BS.shape
        if valid_BS is None:
            lengths = torch.full((B,), S, device=audio_BS.device)
        else:
            lengths = valid_BS.sum(dim=1)
        centres = torch.arange(self.frames(S), device=audio_BS.device) * self.hop
        return centres[None, :] < lengths[:, None]
