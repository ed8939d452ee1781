import pytest
import torch

from mmfm.masking import draw_mask, keep_indices
from tests.encoders.helpers import assert_close, build, config, lengths_mask

SETTINGS = {
    "type": "audio_transformer", "sample_rate": 8000, "max_seconds": 0.5, "n_fft": 200, "hop": 80,
    "mels": 16, "patch_frames": 4, "patch_mels": 8, "width": 16, "layers": 2, "heads": 2,
}  # fmt: skip
PATCH = 4 * 80  # samples


@pytest.fixture
def encoder():
    return build(**SETTINGS)


def test_contract(encoder):
    assert encoder.spec == {"sample_rate": 8000, "max_samples": 4000}
    assert encoder.grid_length == 26  # 50 frames: 13 times of 4, two of mel
    assert encoder.patch_dim == 32
    tokens, pooled = encoder(torch.randn(2, 4000))
    assert tokens.shape == (2, 26, 16)
    assert_close(pooled, tokens.mean(1))


def test_token_valid_follows_the_length(encoder):
    valid = lengths_mask([0, 1, PATCH, PATCH + 1, 4000])
    grid = encoder.token_valid(torch.zeros(5, 4000), valid)
    assert grid.sum(1).tolist() == [0, 2, 2, 4, 26]
    assert torch.equal(encoder.maskable(torch.zeros(5, 4000), valid), grid)
    # Real positions come first.
    assert torch.equal(grid, lengths_mask([0, 2, 2, 4, 26]))


@pytest.mark.parametrize("length", [1, 319, 320, 321, 1000])
@pytest.mark.parametrize("extra", [1, 79, 320, 2999])
def test_padding_changes_nothing(encoder, length, extra):
    clip = torch.randn(1, length, generator=torch.Generator().manual_seed(length))
    padded = torch.cat([clip, torch.full((1, extra), 0.3)], dim=1)
    tokens, pooled = encoder(padded, lengths_mask([length], length + extra))
    alone, pooled_alone = encoder(clip)
    assert_close(tokens[:, : alone.shape[1]], alone, atol=5e-5)
    assert_close(pooled, pooled_alone, atol=5e-5)


def test_patches_do_not_depend_on_padding(encoder):
    clip = torch.randn(1, 700)
    padded = torch.cat([clip, torch.zeros(1, 900)], dim=1)
    alone = encoder.patchify(clip)
    long = encoder.patchify(padded, lengths_mask([700], 1600))
    assert_close(long[:, : alone.shape[1]], alone, atol=2e-5)


def test_keep_equals_attention_that_hides_the_others(encoder):
    audio = torch.randn(3, 4000)
    valid = lengths_mask([4000, 1500, 700])
    grid = encoder.token_valid(audio, valid)
    masked = draw_mask(grid, 0.6, torch.arange(3))
    keep = keep_indices(masked | ~grid)
    tokens, pooled = encoder(audio, valid, keep)
    embedded = encoder.patch_embed(encoder.patchify(audio, valid))
    seen = grid & ~masked
    whole = encoder.transformer(embedded, seen)
    for row in range(3):
        n = int(seen[row].sum())
        assert (keep[row, n:] == -1).all()
        assert_close(tokens[row, :n], whole[row][seen[row]])
        assert_close(pooled[row], whole[row][seen[row]].mean(0))


def test_samples_are_independent(encoder):
    audio, valid = torch.randn(3, 2000), lengths_mask([2000, 900, 1300])
    order = torch.tensor([1, 2, 0])
    for shuffled, plain in zip(
        encoder(audio[order], valid[order]), encoder(audio, valid), strict=True
    ):
        assert_close(shuffled, plain[order])


def test_a_clip_without_any_token_left_stays_finite(encoder):
    keep = torch.tensor([[0, 1], [-1, -1]])
    tokens, pooled = encoder(torch.randn(2, 320), keep=keep)
    (tokens[:1].sum() + pooled.square().sum()).backward()
    assert tokens.isfinite().all()
    assert pooled[1].abs().max() == 0
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_bfloat16_keeps_the_front_end_exact(encoder):
    audio = torch.randn(2, 2000)
    patches = encoder.patchify(audio)
    encoder.bfloat16()
    assert torch.equal(encoder.patchify(audio), patches)
    assert encoder(audio)[1].dtype == torch.bfloat16


def test_audio_longer_than_the_limit_is_refused(encoder):
    with pytest.raises(ValueError, match="4001 samples, more than the 4000"):
        encoder(torch.zeros(1, 4001))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_mels": 5}, "multiple of patch_mels"),
        ({"n_fft": 201}, "even number"),
        ({"max_seconds": 0}, "max_seconds"),
        ({"width": 18}, "multiple of 4"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        config(**{**SETTINGS, **change})
