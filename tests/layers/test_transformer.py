import pytest
import torch
from torch import nn

from mmfm.layers.attention import attention_mask
from mmfm.layers.transformer import Transformer, TransformerConfig


def _stack(**options) -> Transformer:
    torch.manual_seed(0)
    return Transformer(16, 3, 4, mlp_ratio=2.0, **options).eval()


def _torch_stack(ours: Transformer) -> nn.TransformerEncoder:
    """PyTorch's pre-norm encoder with the weights of `ours`; the QKV bias that ours lacks is 0."""
    layer = nn.TransformerEncoderLayer(
        16, 4, 32, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    theirs = nn.TransformerEncoder(
        layer, 3, norm=nn.LayerNorm(16, eps=1e-6), enable_nested_tensor=False
    ).eval()
    for mine, other in zip(ours.blocks, theirs.layers, strict=True):
        other.self_attn.in_proj_weight.data = mine.attention.qkv.weight.data
        other.self_attn.in_proj_bias.data.zero_()
        other.self_attn.out_proj.load_state_dict(mine.attention.out.state_dict())
        other.norm1.load_state_dict(mine.norm1.state_dict())
        other.norm2.load_state_dict(mine.norm2.state_dict())
        other.linear1.load_state_dict(mine.mlp[0].state_dict())
        other.linear2.load_state_dict(mine.mlp[3].state_dict())
    theirs.norm.load_state_dict(ours.norm.state_dict())
    return theirs


def _with_large_weights(stack: Transformer) -> Transformer:
    for parameter in stack.parameters():
        nn.init.normal_(parameter, std=0.3)
    return stack


@pytest.mark.parametrize("causal", [False, True])
def test_equals_pytorchs_transformer_encoder(causal):
    ours = _with_large_weights(_stack(causal=causal))
    x = torch.randn(3, 7, 16)
    valid = torch.arange(7)[None] < torch.tensor([7, 4, 1])[:, None]
    mask = ~torch.ones(7, 7, dtype=torch.bool).tril() if causal else None
    expected = _torch_stack(ours)(x, mask=mask, src_key_padding_mask=~valid)
    torch.testing.assert_close(ours(x, valid)[valid], expected[valid], rtol=0, atol=2e-5)


def test_padding_changes_nothing_and_rows_are_independent():
    stack = _with_large_weights(_stack())
    x = torch.randn(2, 5, 16)
    padded = torch.cat([x, torch.full((2, 4, 16), 9.0)], dim=1)
    valid = torch.arange(9)[None].expand(2, -1) < 5
    alone = stack(x)
    torch.testing.assert_close(stack(padded, valid)[:, :5], alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(stack(x.flip(0)).flip(0), alone, rtol=0, atol=1e-5)


def test_a_row_without_valid_tokens_stays_finite_with_its_gradients():
    stack = _stack()
    x = torch.randn(2, 3, 16, requires_grad=True)
    valid = torch.tensor([[True, True, False], [False] * 3])
    out = stack(x, valid)
    out.square().sum().backward()
    assert out.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in stack.parameters())


def test_causal_mask_shows_only_the_past():
    mask = attention_mask(torch.tensor([[True, True, True, False]]), 4, causal=True)
    assert mask is not None
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert mask[0, 0].int().tolist() == expected
    assert attention_mask(None, 4) is None


def test_dropout_and_drop_path_act_in_training_only():
    stack = _with_large_weights(_stack(dropout=0.2, drop_path=0.5))
    x = torch.randn(2, 4, 16)
    assert torch.equal(stack(x), stack(x))
    stack.train()
    assert not torch.equal(stack(x), stack(x))


def test_every_parameter_gets_a_gradient_and_none_is_zero_dimensional():
    stack = _stack()
    stack(torch.randn(2, 4, 16)).square().sum().backward()
    for name, parameter in stack.named_parameters():
        assert parameter.ndim > 0, name
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 10, "heads": 3}, "multiple of heads"),
        ({"layers": 0}, "at least 1"),
        ({"mlp_ratio": 0}, "mlp_ratio"),
        ({"dropout": 1.0}, "dropout"),
        ({"drop_path": -0.1}, "drop_path"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**settings)
