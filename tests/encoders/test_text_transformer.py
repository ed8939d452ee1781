import pytest
import torch
from torch import nn

from mmfm.data.tokenizer import load_tokenizer
from mmfm.masking import draw_mask
from tests.encoders.helpers import assert_close, build, config, lengths_mask, tokenizer

SIZE = {"type": "text_transformer", "width": 16, "layers": 2, "heads": 2, "max_length": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def encoder(folder):
    return build(tokenizer=folder, **SIZE)


def _texts(encoder, rows=3, length=8):
    words = torch.randint(5, encoder.spec["vocab_size"], (rows, length))
    words[:, 0] = encoder.tokenizer.cls_id
    return words


@pytest.mark.parametrize("bidirectional", [True, False])
def test_equals_pytorchs_layers(folder, bidirectional):
    encoder = build(tokenizer=folder, bidirectional=bidirectional, **SIZE)
    layer = nn.TransformerEncoderLayer(
        16, 2, 64, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    ).eval()
    ids, valid = _texts(encoder), lengths_mask([8, 3, 5])
    x = encoder.embedding.weight[ids] + encoder.position.weight[:8]
    mask = None if bidirectional else nn.Transformer.generate_square_subsequent_mask(8).bool()
    for block in encoder.transformer.blocks:
        layer.self_attn.in_proj_weight.data = block.attention.qkv.weight.data
        layer.self_attn.in_proj_bias.data.zero_()
        layer.self_attn.out_proj.load_state_dict(block.attention.out.state_dict())
        layer.norm1.load_state_dict(block.norm1.state_dict())
        layer.norm2.load_state_dict(block.norm2.state_dict())
        layer.linear1.load_state_dict(block.mlp[0].state_dict())
        layer.linear2.load_state_dict(block.mlp[3].state_dict())
        x = layer(x, src_mask=mask, src_key_padding_mask=~valid)
    expected = encoder.transformer.norm(x)
    tokens, pooled = encoder(ids, valid)
    assert_close(tokens[valid], expected[valid])
    for row, keep, mean in zip(expected, valid, pooled, strict=True):
        assert_close(mean, row[keep].mean(0))


@pytest.mark.parametrize("bidirectional", [True, False])
def test_padding_changes_nothing(folder, bidirectional):
    encoder = build(tokenizer=folder, bidirectional=bidirectional, **SIZE)
    ids = _texts(encoder, rows=1, length=5)
    padded = torch.cat([ids, torch.randint(5, 200, (1, 6))], dim=1)
    tokens, pooled = encoder(padded, lengths_mask([5], 11))
    alone, pooled_alone = encoder(ids)
    assert_close(tokens[:, :5], alone)
    assert_close(pooled, pooled_alone)


def test_causal_tokens_do_not_see_what_follows(folder):
    encoder = build(tokenizer=folder, bidirectional=False, **SIZE)
    ids = _texts(encoder, rows=1)
    changed = ids.clone()
    changed[0, 5] = 7 if ids[0, 5] != 7 else 8
    before, after = encoder(ids)[0], encoder(changed)[0]
    assert_close(after[:, :5], before[:, :5], atol=0)
    assert (after[:, 5:] - before[:, 5:]).abs().amax(-1).min() > 1e-3


def test_maskable_are_valid_words_only(encoder):
    words = load_tokenizer(encoder.spec["tokenizer"])
    ids = torch.tensor([[words.cls_id, 50, 60, words.sep_id, 70]])
    valid = torch.tensor([[True, True, True, True, False]])
    assert encoder.maskable(ids, valid).tolist() == [[False, True, True, False, False]]
    assert encoder.token_valid(ids, valid) is valid
    assert encoder.token_valid(ids).all()
    assert encoder.grid_length is None


def test_corruption_has_berts_shares_and_leaves_the_rest(encoder):
    ids = torch.randint(5, encoder.spec["vocab_size"], (400, 100))
    seeds = torch.arange(400)
    masked = draw_mask(torch.ones_like(ids, dtype=torch.bool), 0.5, seeds)
    out = encoder.mask_inputs(ids, masked, seeds)
    assert torch.equal(out[~masked], ids[~masked])
    now, was = out[masked], ids[masked]
    n = len(now)
    hidden = now == encoder.tokenizer.mask_id
    changed = ~hidden & (now != was)
    assert n == 20_000
    # Standard deviations of the shares are 0.0028 and 0.0021.
    assert abs(hidden.float().mean() - 0.8) < 0.012
    assert abs(changed.float().mean() - 0.1) < 0.01
    assert not torch.isin(now[changed], torch.tensor(encoder.tokenizer.special_ids)).any()
    assert len(now[changed].unique()) > 200


def test_corruption_belongs_to_the_sample(encoder):
    ids = _texts(encoder, rows=4, length=8)
    masked = lengths_mask([6, 8, 3, 7], 8)
    seeds = torch.tensor([5, -9, 2**62, 0])
    out = encoder.mask_inputs(ids, masked, seeds)
    wider = torch.cat([ids, ids], dim=1)
    again = encoder.mask_inputs(wider, torch.cat([masked, masked & False], dim=1), seeds)
    assert torch.equal(again[:, :8], out)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = encoder.mask_inputs(ids[order], masked[order], seeds[order])
    assert torch.equal(shuffled, out[order])


def test_no_mask_token_is_an_error(encoder):
    encoder.tokenizer.mask_id = None
    with pytest.raises(ValueError, match="no mask token"):
        encoder.mask_inputs(_texts(encoder), lengths_mask([1, 1, 1], 8), torch.arange(3))


def test_text_has_no_patches_and_refuses_to_be_too_long(encoder):
    assert not encoder.has_patches
    with pytest.raises(ValueError, match="no patches"):
        encoder.patchify(_texts(encoder))
    with pytest.raises(ValueError, match="more than max_length = 12"):
        encoder(_texts(encoder, length=13))


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="max_length"):
        config(tokenizer="x", **{**SIZE, "max_length": 0})
    with pytest.raises(ValueError, match="tokenizer is required"):
        config(**SIZE)
    with pytest.raises(ValueError, match="nothing-here"):
        config(tokenizer=str(tmp_path / "nothing-here"), **SIZE).build()


def test_the_words_are_what_the_ids_are_looked_up_in(encoder):
    assert encoder.word_embedding() is encoder.embedding
    own = encoder.tokenizer
    assert encoder.text_frame() == ([own.cls_id], [own.sep_id])
