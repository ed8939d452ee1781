"""Audio transformer on patches of a log-mel spectrogram (AST, Gong et al. 2021) that can leave
masked patches out.

``model.encoders.audio: {type: audio_transformer, sample_rate: 16000, max_seconds: 2, width: 256,
layers: 4, heads: 4}``
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mmfm.encoders.base import Encoder, EncoderConfig
from mmfm.layers.log_mel import LogMel
from mmfm.layers.patch_embed import PatchEmbed, keep_valid, patchify
from mmfm.layers.pooling import mean_pool
from mmfm.layers.position import sincos_2d
from mmfm.layers.transformer import TransformerConfig


@dataclass(kw_only=True)
class Config(EncoderConfig, TransformerConfig):
    """`n_fft` and `hop` in samples; a patch spans `patch_frames` frames of time and `patch_mels`
    mel bands.
    """

    sample_rate: int = 16_000
    max_seconds: float = 10.0
    n_fft: int = 400
    hop: int = 160
    mels: int = 80
    patch_frames: int = 16
    patch_mels: int = 16

    def __post_init__(self) -> None:
        EncoderConfig.__post_init__(self)
        TransformerConfig.__post_init__(self)
        for name in ("sample_rate", "max_seconds", "hop", "mels", "patch_frames", "patch_mels"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)} must be above 0")
        if self.n_fft < 2 or self.n_fft % 2:
            raise ValueError(f"n_fft = {self.n_fft} must be an even number of samples")
        if self.mels % self.patch_mels:
            raise ValueError(
                f"mels = {self.mels} must be a multiple of patch_mels = {self.patch_mels}"
            )
        if self.width % 4:
            raise ValueError(f"width = {self.width} must be a multiple of 4 (2D position codes)")

    def build(self, assets: Path | None = None) -> Encoder:
        return AudioTransformer(self).finish()


class AudioTransformer(Encoder):
    """[B,S] waveform ▶ patch tokens after the last norm (all mel patches of a time, then the next),
    and their mean.
    """

    drops = True
    grid_length: int

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.width = config.width
        self.patch = (config.patch_frames, config.patch_mels)
        self.patch_dim = config.patch_frames * config.patch_mels
        self.mel_patches = config.mels // config.patch_mels
        self.spec = {
            "sample_rate": config.sample_rate,
            "max_samples": math.ceil(config.sample_rate * config.max_seconds),
        }
        self.log_mel = LogMel(
            config.sample_rate, config.n_fft, config.hop, config.mels, config.patch_frames
        )
        times = self.log_mel.frames(self.spec["max_samples"]) // config.patch_frames
        self.grid = (times, self.mel_patches)
        self.grid_length = times * self.mel_patches
        position = sincos_2d(times, self.mel_patches, config.width)
        self.patch_embed = PatchEmbed(self.patch_dim, position)
        self.transformer = config.transformer()

    def encode(
        self, inputs: Tensor, valid: Tensor | None, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        patches = self.patchify(inputs, valid)
        real = None if valid is None and keep is None else self.token_valid(inputs, valid)
        if real is not None and keep is not None:
            real = keep_valid(real, keep)
        tokens = self.transformer(self.patch_embed(patches, keep), real)
        return tokens, mean_pool(tokens, real)

    def token_valid(self, inputs: Tensor, valid: Tensor | None = None) -> Tensor:
        # The frames of a clip come first, so a patch holds content exactly if its first frame does.
        first = self.log_mel.frame_valid(inputs, valid)[:, :: self.patch[0]]
        return first.repeat_interleave(self.mel_patches, dim=1)

    def patchify(self, inputs: Tensor, valid: Tensor | None = None) -> Tensor:
        most = self.spec["max_samples"]
        if inputs.shape[1] > most:
            raise ValueError(f"audio has {inputs.shape[1]} samples, more than the {most} allowed")
        return patchify(self.log_mel(inputs, valid)[:, None], *self.patch)
