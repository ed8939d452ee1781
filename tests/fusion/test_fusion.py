import pytest
import torch

from mmfm.config import Component, component
from mmfm.fusion.base import FusionInput
from tests.encoders.helpers import assert_close, lengths_mask

WIDTHS = {"image": 6, "text": 8, "audio": 10}
LENGTHS = {"image": 4, "text": 5, "audio": 3}
KINDS = [
    {"type": "transformer", "width": 16, "layers": 2, "heads": 2},
    {"type": "late", "width": 16, "combine": "mean"},
    {"type": "late", "width": 16, "combine": "concat"},
]
ROWS = {"image": [0, 2, 3], "text": [0, 1, 3], "audio": [1, 3]}


def _config(**settings):
    return component(settings, Component("mmfm.fusion"), "model.fusion")


def _build(settings):
    torch.manual_seed(0)
    fusion = _config(**settings).build(WIDTHS).eval()
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return fusion


def _part(modality, rows):
    generator = torch.Generator().manual_seed(len(modality))
    tokens = torch.randn(4, LENGTHS[modality], WIDTHS[modality], generator=generator)[rows]
    valid = lengths_mask([2, 3, 1, 2], LENGTHS[modality])[rows]
    pooled = torch.randn(4, WIDTHS[modality], generator=generator)[rows]
    return FusionInput(torch.tensor(rows), tokens, valid, pooled)


def _parts(rows=ROWS):
    return {m: _part(m, r) for m, r in rows.items()}


def _of_sample(sample):
    """What `sample` has, as a batch of its own."""
    parts = {m: _part(m, [sample]) for m, rows in ROWS.items() if sample in rows}
    return {m: FusionInput(torch.zeros_like(x.rows), x.tokens, x.valid, x.pooled)
            for m, x in parts.items()}  # fmt: skip


@pytest.fixture(params=KINDS, ids=lambda k: f"{k['type']}-{k.get('combine', '')}")
def fusion(request):
    return _build(request.param)


def test_shapes(fusion):
    fused, pooled = fusion(_parts(), 4)
    assert pooled.shape == (4, 16)
    assert {m: tuple(t.shape) for m, t in fused.items()} == {
        m: (len(rows), LENGTHS[m], 16) for m, rows in ROWS.items()
    }


@pytest.mark.parametrize("sample", range(4))
def test_a_sample_alone_gives_the_same(fusion, sample):
    fused, pooled = fusion(_parts(), 4)
    alone, pooled_alone = fusion(_of_sample(sample), 1)
    assert_close(pooled_alone[0], pooled[sample])
    for m, tokens in alone.items():
        valid = _part(m, [sample]).valid[0]
        assert_close(tokens[0][valid], fused[m][ROWS[m].index(sample)][valid])


def test_rows_in_any_order(fusion):
    shuffled = {"audio": [3, 1], "image": [2, 0, 3], "text": [3, 0, 1]}
    fused, pooled = fusion(_parts(), 4)
    again, pooled_again = fusion({m: _part(m, shuffled[m]) for m in ROWS}, 4)
    assert_close(pooled_again, pooled)
    for m, rows in shuffled.items():
        assert_close(again[m], fused[m][[ROWS[m].index(r) for r in rows]])


def test_another_modality_of_the_same_sample_matters(fusion):
    _, with_text = fusion(_parts(), 4)
    rows = {**ROWS, "text": [1, 3]}
    _, without = fusion(_parts(rows), 4)
    assert (with_text[0] - without[0]).abs().max() > 1e-3
    assert_close(without[1:], with_text[1:])


def test_padding_has_no_influence():
    fusion = _build(KINDS[0])
    parts = _parts()
    fused, pooled = fusion(parts, 4)
    x = parts["text"]
    noise = torch.where(x.valid[..., None], x.tokens, 100.0)
    parts["text"] = FusionInput(x.rows, noise, x.valid, x.pooled)
    again, pooled_again = fusion(parts, 4)
    assert_close(pooled_again, pooled)
    assert_close(again["image"], fused["image"])


def test_transformer_tokens_see_the_other_modalities_and_late_ones_do_not(fusion):
    parts = _parts()
    before = fusion(parts, 4)[0]["image"]
    x = parts["text"]
    parts["text"] = FusionInput(x.rows, x.tokens + 1, x.valid, x.pooled + 1)
    after = fusion(parts, 4)[0]["image"]
    moved = (after - before).abs().amax(dim=(1, 2)) > 1e-3
    expected = [True, False, True] if hasattr(fusion, "cls") else [False] * 3
    assert moved.tolist() == expected  # image rows are samples 0, 2 and 3; sample 2 has no text


def test_late_mean_is_the_mean_of_what_is_there():
    fusion = _build(KINDS[1])
    parts = _parts()
    _, pooled = fusion(parts, 4)
    vectors = [fusion.projections[m](_part(m, [3]).pooled)[0] for m in WIDTHS]
    assert_close(pooled[3], torch.stack(vectors).mean(0))
    assert_close(pooled[2], fusion.projections["image"](_part("image", [2]).pooled)[0])


def test_every_parameter_gets_a_gradient(fusion):
    fused, pooled = fusion(_parts(), 4)
    (pooled.square().sum() + sum(t.square().sum() for t in fused.values())).backward()
    for name, parameter in fusion.named_parameters():
        assert parameter.ndim > 0
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="multiple of heads"):
        _config(type="transformer", width=10, heads=3)
    with pytest.raises(ValueError, match="width = 0"):
        _config(type="late", width=0)
    with pytest.raises(ValueError, match="combine"):
        _config(type="late", combine="sum")


def test_packing_changes_neither_outputs_nor_gradients():
    """Against one run of the transformer over all places, padding included."""
    fusion = _build(KINDS[0]).double()
    tokens = torch.randn(6, 7, 16, dtype=torch.float64, requires_grad=True)
    valid = torch.rand(6, 7, generator=torch.Generator().manual_seed(3)) < 0.5
    valid[:, 0] = True  # [CLS]
    weight = torch.randn(6, 7, 16, dtype=torch.float64) * valid[..., None]
    packed = fusion._packed(tokens, valid)
    padded = fusion.transformer(tokens, valid) * valid[..., None]
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-12)
    of = [tokens, *fusion.transformer.parameters()]
    one = torch.autograd.grad((packed * weight).sum(), of)
    other = torch.autograd.grad((padded * weight).sum(), of)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11 * (1 + float(b.abs().max())))


def test_the_number_of_transformer_calls_does_not_depend_on_the_samples():
    fusion, calls = _build(KINDS[0]), []
    fusion.transformer.register_forward_hook(lambda *_: calls.append(1))
    counts = []
    for sample in (None, 0, 1):
        calls.clear()
        fusion(_parts() if sample is None else _of_sample(sample), 4 if sample is None else 1)
        counts.append(len(calls))
    assert counts[0] == counts[1] == counts[2]
