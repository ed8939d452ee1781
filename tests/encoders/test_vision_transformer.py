import pytest
import timm
import torch

from mmfm.masking import keep_indices
from tests.encoders.helpers import assert_close, build, config

SETTINGS = {
    "type": "vision_transformer", "image_size": 16, "patch_size": 4, "width": 16, "layers": 2,
    "heads": 2, "mlp_ratio": 2.0,
}  # fmt: skip


@pytest.fixture
def encoder():
    return build(**SETTINGS)


@pytest.fixture
def images():
    return torch.randn(2, 3, 16, 16)


def _timm_twin(encoder):
    """timm's ViT with the weights of `encoder`."""
    twin = timm.models.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2.0,
        qkv_bias=False, class_token=False, global_pool="avg", fc_norm=False, num_classes=0,
    ).eval()  # fmt: skip
    kernel = encoder.patch_embed.projection.weight.view(16, 4, 4, 3).permute(0, 3, 1, 2)
    twin.patch_embed.proj.weight.data = kernel
    twin.patch_embed.proj.bias.data = encoder.patch_embed.projection.bias.data
    twin.pos_embed.data = encoder.patch_embed.position[None]
    twin.norm.load_state_dict(encoder.transformer.norm.state_dict())
    for mine, other in zip(encoder.transformer.blocks, twin.blocks, strict=True):
        other.attn.qkv.load_state_dict(mine.attention.qkv.state_dict())
        other.attn.proj.load_state_dict(mine.attention.out.state_dict())
        other.norm1.load_state_dict(mine.norm1.state_dict())
        other.norm2.load_state_dict(mine.norm2.state_dict())
        other.mlp.fc1.load_state_dict(mine.mlp[0].state_dict())
        other.mlp.fc2.load_state_dict(mine.mlp[3].state_dict())
    return twin


def test_equals_timms_vit(encoder, images):
    twin = _timm_twin(encoder)
    tokens, pooled = encoder(images)
    assert_close(tokens, twin.forward_features(images))
    assert_close(pooled, twin(images))


def test_keep_equals_a_vit_that_never_had_the_other_patches(encoder, images):
    keep = torch.tensor([[0, 5, 6, 15], [1, 2, 3, 9]])
    tokens, pooled = encoder(images, keep=keep)
    twin = _timm_twin(encoder)
    x = twin.pos_embed + twin.patch_embed(images)
    x = torch.stack([row[places] for row, places in zip(x, keep, strict=True)])
    expected = twin.norm(twin.blocks(x))
    assert_close(tokens, expected)
    assert_close(pooled, expected.mean(1))


def test_keeping_all_changes_nothing(encoder, images):
    keep = torch.arange(16).expand(2, -1)
    for kept, whole in zip(encoder(images, keep=keep), encoder(images), strict=True):
        assert_close(kept, whole)


def test_padding_of_keep_is_not_seen(encoder, images):
    masked = torch.zeros(2, 16, dtype=torch.bool)
    masked[0, :12] = True
    masked[1, 3:8] = True
    keep = keep_indices(masked)
    tokens, pooled = encoder(images, keep=keep)
    alone, pooled_alone = encoder(images[:1], keep=keep[:1, :4])
    assert keep[0, 4:].tolist() == [-1] * 7
    assert_close(tokens[:1, :4], alone)
    assert_close(pooled[:1], pooled_alone)


def test_contract(encoder, images):
    assert encoder.grid_length == 16
    assert encoder.patch_dim == 48
    assert encoder.drops
    assert encoder.token_valid(images).shape == (2, 16)
    assert encoder.maskable(images).all()
    assert encoder.patchify(images).shape == (2, 16, 48)
    assert encoder.spec["size"] == 16
    assert encoder.spec["mean"] == [0.5, 0.5, 0.5]


def test_pictures_of_another_size_are_refused(encoder):
    with pytest.raises(ValueError, match=r"\[B,3,16,16\], not \[1, 3, 8, 16\]"):
        encoder(torch.zeros(1, 3, 8, 16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 5}, "multiple of"),
        ({"width": 6, "heads": 1}, "multiple of 4"),
        ({"heads": 3}, "multiple of heads"),
        ({"std": [1, 0, 1]}, "std"),
        ({"cache": True}, "needs frozen"),
        ({"interpolation": "nearest"}, "interpolation"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        config(**{**SETTINGS, **change})
