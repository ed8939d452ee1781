"""The decoder against PyTorch's, and what its tokens see."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmfm.layers.attention import CrossAttention
from mmfm.layers.decoder import Decoder
from mmfm.layers.recompute import recompute_activations
from mmfm.layers.transformer import TransformerConfig


def decoder(**settings) -> Decoder:
    torch.manual_seed(0)
    config = TransformerConfig(
        **{"width": 16, "layers": 3, "heads": 4, "mlp_ratio": 2.0} | settings
    )
    made = Decoder(config).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


def inputs(length: int = 7, size: int = 5) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, length, 16, generator=generator).double()
    memory = torch.randn(3, size, 16, generator=generator).double()
    valid = torch.arange(length)[None] < torch.tensor([length, 4, 1])[:, None]
    memory_valid = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 0, 1, 1], [1, 0, 0, 0, 0]]).bool()
    return x, memory, valid, memory_valid[:, :size]


def test_cross_attention_equals_pytorchs() -> None:
    ours = CrossAttention(16, 4).double()
    theirs = nn.MultiheadAttention(16, 4, batch_first=True).double()
    theirs.in_proj_weight.data = torch.cat([ours.q.weight, ours.kv.weight]).detach()
    theirs.in_proj_bias.data.zero_()
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    x, memory, _, valid = inputs()
    want, _ = theirs(x, memory, memory, key_padding_mask=~valid)
    got = ours(x, memory, valid[:, None, None, :])
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="width 16 is not a multiple of heads 3"):
        CrossAttention(16, 3)


def test_equals_pytorchs_decoder() -> None:
    ours = decoder()
    layer = nn.TransformerDecoderLayer(
        16, 4, 32, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    theirs = nn.TransformerDecoder(layer, 3, norm=nn.LayerNorm(16, eps=1e-6)).double()
    for mine, other in zip(ours.blocks, theirs.layers, strict=True):
        cross = mine.cross_attention
        other.self_attn.in_proj_weight.data = mine.attention.qkv.weight.data
        other.multihead_attn.in_proj_weight.data = torch.cat([cross.q.weight, cross.kv.weight]).data
        for attention in (other.self_attn, other.multihead_attn):
            attention.in_proj_bias.data.zero_()
        other.self_attn.out_proj.load_state_dict(mine.attention.out.state_dict())
        other.multihead_attn.out_proj.load_state_dict(cross.out.state_dict())
        for name in ("norm1", "norm2", "norm3"):
            getattr(other, name).load_state_dict(getattr(mine, name).state_dict())
        other.linear1.load_state_dict(mine.mlp[0].state_dict())
        other.linear2.load_state_dict(mine.mlp[3].state_dict())
    theirs.norm.load_state_dict(ours.norm.state_dict())
    x, memory, valid, memory_valid = inputs()
    later = ~torch.ones(7, 7, dtype=torch.bool).tril()
    want = theirs(
        x, memory, later, tgt_key_padding_mask=~valid, memory_key_padding_mask=~memory_valid
    )
    got = ours(x, memory, valid, memory_valid)
    torch.testing.assert_close(got[valid], want[valid], rtol=0, atol=1e-12)


def test_no_token_sees_a_later_one_or_padding() -> None:
    ours = decoder()
    x, memory, _, _ = inputs()
    before = ours(x, memory)
    changed = x.clone()
    changed[:, 4] = changed[:, 5]  # what is added to all features alike, the norm takes away
    after = ours(changed, memory)
    torch.testing.assert_close(after[:, :4], before[:, :4], rtol=0, atol=1e-12)
    assert ((after - before)[:, 4:].abs().amax(-1) > 1e-6).all()
    padded = torch.cat([memory, torch.full((3, 4, 16), 9.0).double()], dim=1)
    valid = torch.arange(9)[None].expand(3, -1) < 5
    torch.testing.assert_close(ours(x, padded, None, valid), before, rtol=0, atol=1e-12)
    assert not torch.allclose(ours(x, padded), before)


def test_every_parameter_gets_a_gradient() -> None:
    ours = decoder()
    ours(*inputs()).square().sum().backward()
    for name, parameter in ours.named_parameters():
        assert parameter.ndim > 0, name
        assert parameter.grad.abs().max() > 0, name


def test_dropout_and_drop_path_act_in_training_only() -> None:
    x, memory, *_ = inputs()
    for settings in ({"dropout": 0.2}, {"drop_path": 0.5}):
        ours = decoder(**settings)
        assert not torch.equal(ours(x, memory), ours(x, memory))
        ours.eval()
        assert torch.equal(ours(x, memory), ours(x, memory))


def test_recomputed_activations_give_the_same_gradients() -> None:
    ours = decoder(dropout=0.2)
    x, *rest = inputs()
    found, calls = [], []
    ours.blocks[1].register_forward_pre_hook(lambda *_: calls.append(1))
    for times in (1, 3):  # the second pass runs each block again
        torch.manual_seed(3)
        given = x.clone().requires_grad_()
        ours(given, *rest).square().sum().backward()
        found.append([given.grad, *(p.grad.clone() for p in ours.parameters())])
        ours.zero_grad()
        assert len(calls) == times
        assert recompute_activations(ours) == 1
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("texts", [1, 3])
def test_token_by_token_equals_the_whole(texts: int) -> None:
    """Also where several texts of a sample are written side by side, and change their places."""
    ours = decoder().eval()
    _, memory, _, memory_valid = inputs()
    x = torch.randn(3, texts, 6, 16, generator=torch.manual_seed(2)).double()
    whole = memory.repeat_interleave(texts, 0), memory_valid.repeat_interleave(texts, 0)
    with torch.no_grad():
        want = ours(x.flatten(0, 1), whole[0], None, whole[1]).view(3, texts, 6, 16)
        state = ours.begin(memory, memory_valid)
        turn = torch.arange(3 * texts)
        for place in range(6):
            got = ours.next(x.flatten(0, 1)[turn, place].view(3, texts, 16), state)
            torch.testing.assert_close(
                got.flatten(0, 1), want.flatten(0, 1)[turn, place], rtol=0, atol=1e-12
            )
            swapped = torch.arange(3 * texts).view(3, texts).flip(1).flatten()
            state.take(swapped)
            turn = turn[swapped]
    assert state.length == 6
    assert state.past_rows == 3 * texts
