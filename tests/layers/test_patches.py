import pytest
import torch
from timm.layers import build_sincos2d_pos_embed
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from mmfm.layers.patch_embed import PatchEmbed, keep_valid, patchify, take
from mmfm.layers.pooling import mean_pool
from mmfm.layers.position import LearnedPosition, sincos_2d


@pytest.fixture(scope="module")
def mae() -> ViTMAEForPreTraining:
    small = {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    decoder = {f"decoder_{key}": value for key, value in small.items()}
    settings = ViTMAEConfig(
        image_size=24, patch_size=8, hidden_size=16, decoder_hidden_size=8, **small, **decoder
    )
    return ViTMAEForPreTraining(settings)


def test_patchify_equals_vit_mae(mae):
    images = torch.randn(2, 3, 24, 24)
    assert torch.equal(patchify(images, 8, 8), mae.patchify(images))


def test_sincos_equals_timm():
    # timm orders the code as (sine, cosine) x (row, column), MAE as (column, row) x (sine, cosine).
    theirs = build_sincos2d_pos_embed([5, 3], 16).view(15, 2, 2, 4)
    expected = theirs.flip(2).permute(0, 2, 1, 3).reshape(15, 16)
    torch.testing.assert_close(sincos_2d(5, 3, 16), expected, rtol=0, atol=1e-6)


def test_patchify_of_rectangles_goes_row_by_row():
    x = torch.arange(2 * 4 * 6.0).view(2, 1, 4, 6)
    patches = patchify(x, 2, 3)
    assert patches.shape == (2, 4, 6)
    assert patches[0, 1].tolist() == [3, 4, 5, 9, 10, 11]
    assert patches[0, 2].tolist() == [12, 13, 14, 18, 19, 20]


def test_sincos_of_a_shorter_grid_is_a_prefix():
    # Audio relies on it: time is the slow axis, so a shorter clip has the first positions.
    assert torch.equal(sincos_2d(9, 5, 16)[: 4 * 5], sincos_2d(4, 5, 16))


def test_sincos_needs_a_width_divisible_by_four():
    with pytest.raises(ValueError, match="divisible by 4"):
        sincos_2d(2, 2, 6)


def test_embedding_kept_patches_equals_embedding_all_and_choosing():
    embed = PatchEmbed(6, sincos_2d(2, 3, 8))
    patches = torch.randn(2, 6, 6)
    keep = torch.tensor([[0, 3, 5], [1, 2, -1]])
    chosen = take(embed(patches), keep)
    torch.testing.assert_close(embed(patches, keep), chosen, rtol=0, atol=1e-6)
    assert torch.equal(chosen[0, 1], embed(patches)[0, 3])


def test_more_patches_than_the_grid_are_refused():
    with pytest.raises(ValueError, match="7 patches"):
        PatchEmbed(6, sincos_2d(2, 3, 8))(torch.randn(1, 7, 6))


def test_keep_valid_joins_both_kinds_of_padding():
    valid = torch.tensor([[True, True, False], [True, False, False]])
    keep = torch.tensor([[0, 1, 2], [0, 1, -1]])
    assert keep_valid(valid, keep).tolist() == [[True, True, False], [True, False, False]]


def test_mean_pool_ignores_padding_even_if_it_is_not_finite():
    x = torch.tensor([[[1.0], [3.0], [float("nan")]], [[float("inf")]] * 3])
    valid = torch.tensor([[True, True, False], [False, False, False]])
    assert mean_pool(x, valid).tolist() == [[2.0], [0.0]]
    assert mean_pool(x[:1, :2]).tolist() == [[2.0]]


def test_learned_positions_are_added_and_bounded():
    position = LearnedPosition(4, 2)
    x = torch.zeros(1, 3, 2)
    assert torch.equal(position(x)[0], position.weight[:3])
    with pytest.raises(ValueError, match="more than max_length = 4"):
        position(torch.zeros(1, 5, 2))
