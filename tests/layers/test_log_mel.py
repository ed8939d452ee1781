import librosa
import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank

from mmfm.layers.log_mel import DYNAMIC_RANGE, LogMel, mel_filters

SETTINGS = [(16_000, 400, 80), (22_050, 1024, 64), (8_000, 256, 40)]


@pytest.mark.parametrize(("rate", "n_fft", "mels"), SETTINGS)
def test_filters_equal_librosa_and_transformers(rate, n_fft, mels):
    ours = mel_filters(rate, n_fft, mels)
    expected = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=mels)
    np.testing.assert_allclose(ours.numpy(), expected.T, rtol=0, atol=1e-7)
    theirs = mel_filter_bank(
        n_fft // 2 + 1, mels, 0.0, rate / 2, rate, norm="slaney", mel_scale="slaney"
    )
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("rate", "n_fft", "mels"), SETTINGS)
def test_power_equals_librosas_melspectrogram(rate, n_fft, mels):
    audio = torch.randn(2, rate // 3, generator=torch.Generator().manual_seed(0))
    hop = n_fft // 3
    ours = LogMel(rate, n_fft, hop, mels).power(audio)
    expected = librosa.feature.melspectrogram(
        y=audio.numpy(), sr=rate, n_fft=n_fft, hop_length=hop, n_mels=mels, pad_mode="constant"
    ).transpose(0, 2, 1)[:, : ours.shape[1]]
    assert ours.shape[1] == -(-audio.shape[1] // hop)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_each_clip_is_standardised_over_its_own_frames():
    front = LogMel(16_000, 400, 160, 80, multiple=16)
    audio = torch.randn(2, 8000)
    valid = torch.arange(8000)[None] < torch.tensor([8000, 3000])[:, None]
    out = front(audio, valid)
    frames = front.frame_valid(audio, valid)
    assert out.shape == (2, 64, 80)
    assert frames.sum(1).tolist() == [50, 19]
    for row, keep in zip(out, frames, strict=True):
        assert row[keep].mean().abs() < 1e-5
        assert (row[keep].std(correction=0) - 1).abs() < 1e-4


@pytest.mark.parametrize("extra", [1, 159, 160, 161, 4000])
def test_frames_do_not_depend_on_padding_nor_on_what_is_in_it(extra):
    front = LogMel(16_000, 400, 160, 80, multiple=4)
    clip = torch.randn(1, 3001)
    padded = torch.cat([clip, torch.full((1, extra), 0.7)], dim=1)
    valid = torch.arange(padded.shape[1])[None] < 3001
    alone = front(clip)
    torch.testing.assert_close(front(padded, valid)[:, : alone.shape[1]], alone, rtol=0, atol=2e-5)


def test_silence_and_clips_of_no_length_are_finite():
    front = LogMel(16_000, 400, 160, 80)
    valid = torch.zeros(1, 800, dtype=torch.bool)
    assert front(torch.zeros(1, 800)).abs().max() == 0
    assert front(torch.randn(1, 800), valid).isfinite().all()


def test_what_is_far_below_the_loudest_is_cut():
    front = LogMel(16_000, 400, 160, 80)
    tone = torch.sin(torch.arange(8000) * 0.5)[None]
    values = front(tone)
    scale = (front.power(tone).clamp(min=1e-10).log10()).amax()
    quiet = front(torch.cat([tone, tone * 1e-9], dim=1))[:, 60:]
    assert torch.equal(quiet, quiet[:, :1, :1].expand_as(quiet))
    assert scale - DYNAMIC_RANGE > -10
    assert values.isfinite().all()


def test_stays_float32_when_the_model_is_cast():
    front = LogMel(16_000, 400, 160, 80)
    before = front.filters.clone()
    front.bfloat16()
    assert front.filters.dtype == front.window.dtype == torch.float32
    assert torch.equal(front.filters, before)
    assert front(torch.randn(1, 800).bfloat16()).dtype == torch.float32
    assert not list(front.parameters())
    assert not front.state_dict()
