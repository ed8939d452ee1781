"""InfoNCE against open_clip, transformers and brute force."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmfm.config import ConfigError, from_dict
from mmfm.objectives.base import intersect
from mmfm.objectives.contrastive import Config, info_nce
from mmfm.task import PretrainTask, PretrainTaskConfig
from mmfm.types import Features, Read
from tests import tiny


def embeddings(n: int = 12, width: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pair = torch.randn(2, n, width, generator=generator)
    a, b = torch.nn.functional.normalize(pair, dim=-1)
    return a.requires_grad_(), b.requires_grad_()


SCALE = 7.0
GROUPS = torch.tensor([0, 1, 2, 0, 3, 4, 1, 5, 0, 6, 7, 8])


def mean_and_gradients(loss: Tensor, *inputs: Tensor) -> tuple[float, list[Tensor]]:
    return loss.item(), list(torch.autograd.grad(loss, inputs))


def ours(a: Tensor, b: Tensor, group: Tensor, scale: Tensor, how: str = "mask") -> Tensor:
    total, count = info_nce(a, b, group, scale, how)
    assert count.item() == len(a)
    return total / count


def test_equals_open_clip() -> None:
    from open_clip.loss import ClipLoss

    a, b = embeddings()
    scale = torch.tensor([SCALE], requires_grad=True)
    got, got_grads = mean_and_gradients(ours(a, b, torch.arange(12), scale), a, b, scale)
    want, want_grads = mean_and_gradients(ClipLoss()(a, b, scale), a, b, scale)
    assert got == pytest.approx(want, rel=1e-6)
    for one, other in zip(got_grads, want_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_equals_transformers() -> None:
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    a, b = embeddings(seed=1)
    got = ours(a, b, torch.arange(12), torch.tensor(SCALE))
    want = image_text_contrastive_loss(SCALE * b @ a.T)
    assert got.item() == pytest.approx(want.item(), rel=1e-6)


def brute_masked(a: Tensor, b: Tensor, group: Tensor, scale: Tensor) -> Tensor:
    """-log softmax over the own partner and those of other groups; the mean of both sides."""
    losses = []
    for x, y in ((a, b), (b, a)):
        for i in range(len(x)):
            own = (scale * x[i] @ y[i]).exp()
            others = [(scale * x[i] @ y[j]).exp() for j in range(len(y)) if group[j] != group[i]]
            losses.append(-(own / (own + torch.stack(others).sum())).log())
    return torch.stack(losses).mean()


def brute_supcon(a: Tensor, b: Tensor, group: Tensor, scale: Tensor) -> Tensor:
    """SupCon's L_out: the mean over the positives outside the logarithm, all in the denominator."""
    losses = []
    for x, y in ((a, b), (b, a)):
        for i in range(len(x)):
            all_of_them = torch.stack([(scale * x[i] @ y[j]).exp() for j in range(len(y))]).sum()
            positives = [j for j in range(len(y)) if group[j] == group[i]]
            terms = [-((scale * x[i] @ y[j]).exp() / all_of_them).log() for j in positives]
            losses.append(torch.stack(terms).mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize(("how", "brute"), [("mask", brute_masked), ("positive", brute_supcon)])
def test_equal_groups_against_brute_force(how: str, brute) -> None:
    a, b = (x.detach().double().requires_grad_() for x in embeddings(seed=2))
    scale = torch.tensor([SCALE], dtype=torch.float64, requires_grad=True)
    want, want_grads = mean_and_gradients(brute(a, b, GROUPS, scale), a, b, scale)
    got, got_grads = mean_and_gradients(ours(a, b, GROUPS, scale, how), a, b, scale)
    assert got == pytest.approx(want, rel=1e-6)
    for one, other in zip(got_grads, want_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert got != pytest.approx(ours(a, b, torch.arange(12), scale).item(), rel=1e-3)


def test_rows_of_one_group_have_no_negatives() -> None:
    a, b = embeddings()
    total, _ = info_nce(a, b, torch.zeros(12, dtype=torch.int64), torch.tensor(SCALE))
    assert total.item() == 0.0
    assert all(not g.any() for g in torch.autograd.grad(total, (a, b)))


def test_no_rows_at_all() -> None:
    empty = torch.zeros(0, 8, requires_grad=True)
    total, count = info_nce(empty, empty, torch.zeros(0, dtype=torch.int64), torch.tensor(SCALE))
    assert (total.item(), count.item()) == (0.0, 0.0)


def test_bf16_embeddings_are_compared_in_fp32() -> None:
    a, b = (x.detach().bfloat16() for x in embeddings())
    total, _ = info_nce(a, b, GROUPS, torch.tensor(SCALE))
    assert total.dtype == torch.float32
    assert total.item() == info_nce(a.float(), b.float(), GROUPS, torch.tensor(SCALE))[0].item()


# ------------------------------------------------------------------------------ the objective


def build(tokenizer: str, **settings):
    task = tiny.task_settings(tokenizer)
    task["objectives"] = {"c": {"type": "contrastive", **settings}}
    torch.manual_seed(0)
    return PretrainTask.build(from_dict(PretrainTaskConfig, task))


def test_the_temperatures_gradient(tokenizer) -> None:
    """With respect to the logarithm, by finite differences; none where it is clamped or fixed."""
    objective = build(tokenizer, temperature=0.1).objectives["c"]
    rows = dict(zip("ab", embeddings(), strict=True))
    rows = {f"image_text.{k}": v.detach() for k, v in rows.items()} | {"image_text.group": GROUPS}

    def loss() -> Tensor:
        total, count = objective.loss(rows, objective.scalars())["image_text"]
        return total / count

    scale = objective.logit_scale.log_scale
    assert scale.shape == (1,)
    assert objective.scalars()["logit_scale"].item() == pytest.approx(10.0)
    (gradient,) = torch.autograd.grad(loss(), scale)
    with torch.no_grad():
        scale += 0.01
        above = loss().item()
        scale -= 0.02
        below = loss().item()
        scale += 0.01
    assert gradient.item() == pytest.approx((above - below) / 0.02, rel=1e-3)
    with torch.no_grad():
        scale.fill_(math.log(200.0))
    assert objective.scalars()["logit_scale"].item() == pytest.approx(100.0, rel=1e-6)
    assert torch.autograd.grad(loss(), scale)[0].item() == 0.0
    fixed = build(tokenizer, learn_temperature=False).objectives["c"]
    assert not fixed.logit_scale.log_scale.requires_grad


def test_a_pair_uses_the_samples_that_have_both(tokenizer) -> None:
    objective = build(tokenizer, pairs=[["image", "text"], ["audio+image", "text"]]).objectives["c"]
    image, text = Read("clean", ("image",)), Read("clean", ("text",))
    fused = Read("clean", ("audio", "image"), fused=True)
    assert objective.reads == (image, text, fused)
    e = torch.arange(24.0).view(6, 4)
    features = {
        image: Features(6, {"image": torch.tensor([0, 2, 5])}, embedding={"image": e[:3]}),
        text: Features(6, {"text": torch.tensor([1, 2, 4, 5])}, embedding={"text": e[:4] + 100}),
        fused: Features(6, {"fused": torch.tensor([0, 1, 2, 5])}, embedding={"fused": e[:4] + 50}),
    }
    rows = objective.rows(features, {"group": torch.arange(6) * 10})
    assert torch.equal(rows["image_text.a"], e[[1, 2]])
    assert torch.equal(rows["image_text.b"], e[[1, 3]] + 100)
    assert rows["image_text.group"].tolist() == [20, 50]
    assert torch.equal(rows["audio+image_text.a"], e[[1, 2, 3]] + 50)
    assert torch.equal(rows["audio+image_text.b"], e[[0, 1, 3]] + 100)
    assert rows["audio+image_text.group"].tolist() == [10, 20, 50]


def test_intersect() -> None:
    a, b = intersect(torch.tensor([1, 4, 6, 9]), torch.tensor([0, 1, 6, 7]))
    assert (a.tolist(), b.tolist()) == ([0, 2], [1, 2])
    a, b = intersect(torch.tensor([1]), torch.tensor([2]))
    assert (a.tolist(), b.tolist()) == ([], [])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"pairs": [["image", "video"]]},
            r"objectives\.c: pairs: 'video' names 'video', the model",
        ),
        ({"pairs": [["image", "text+smell"]]}, r"'text\+smell' names 'smell'"),
        ({"pairs": [["image"]]}, r"pairs = \[\['image'\]\]: needs a list of pairs"),
        ({"pairs": []}, "needs a list of pairs"),
        ({"pairs": [["image", "image+text"]]}, r"the sides of \['image', 'image\+text'\] share"),
        ({"pairs": [["image+image", "text"]]}, r"'image\+image' names a modality twice"),
        ({"pairs": [["image", "text"], ["text", "image"]]}, "two of them are the same"),
        ({"pairs": [["image+audio", "text"], ["audio+image", "text"]]}, "two of them are the same"),
        ({"temperature": 0.001}, r"temperature = 0\.001 is below 1 / max_logit_scale = 0\.01"),
        ({"temperature": -1.0}, r"temperature = -1\.0 is below"),
        ({"max_logit_scale": 0.0}, r"max_logit_scale = 0\.0 must be above 0"),
        ({"max_logit_scale": -5.0}, "max_logit_scale"),
        ({"weight": 0.0}, r"weight must be above 0, not 0\.0; leave the objective out"),
        ({"start_step": -1}, "start_step = -1 must not be negative"),
        ({"ramp_steps": -1}, "ramp_steps = -1 must not be negative"),
        ({"start_step": 4, "end_step": 4}, "end_step = 4 must be above start_step = 4"),
        ({"equal_group": "keep"}, r"objectives\.c\.equal_group = 'keep'"),
    ],
)
def test_refusals(tokenizer, settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tokenizer, **settings)


def test_a_fused_side_needs_a_fusion(tokenizer) -> None:
    settings = tiny.task_settings(tokenizer)
    settings["model"]["fusion"] = None
    settings["objectives"] = {"c": {"type": "contrastive", "pairs": [["audio+image", "text"]]}}
    with pytest.raises(
        ConfigError, match=r"'audio\+image' is a fused embedding, but model\.fusion"
    ):
        PretrainTask.build(from_dict(PretrainTaskConfig, settings))


def test_defaults() -> None:
    assert Config().pairs == [["image", "text"]]
    assert Config().equal_group == "mask"


@pytest.mark.parametrize("how", ["mask", "positive"])
def test_further_negatives_are_columns_only(how: str) -> None:
    """Loss and gradients against the plain sums in double precision; those of a row's group count
    for nothing.
    """
    a, b = (x.detach().double().requires_grad_() for x in embeddings())
    more_a, more_b = (x.detach().double().requires_grad_() for x in embeddings(5, seed=3))
    group_a, group_b = torch.tensor([0, 1, 9, 9, 20]), torch.tensor([2, 21, 0, 22, 23])
    scale = torch.tensor([SCALE], dtype=torch.float64, requires_grad=True)
    losses = []
    for x, y, more, groups in ((a, b, more_b, group_b), (b, a, more_a, group_a)):
        for i in range(len(x)):
            same = GROUPS[i] == GROUPS
            positives = [i] if how == "mask" else same.nonzero()[:, 0].tolist()
            seen = ~same if how == "mask" else torch.ones_like(same)
            seen[i] = True
            gallery = torch.cat([y[seen], more[groups != GROUPS[i]]])
            below = (scale * x[i] @ gallery.T).exp().sum().log()
            losses.append(torch.stack([below - scale * x[i] @ y[j] for j in positives]).mean())
    inputs = (a, b, more_a, more_b, scale)
    want, want_grads = mean_and_gradients(torch.stack(losses).mean(), *inputs)
    total, count = info_nce(a, b, GROUPS, scale, how, (more_a, group_a), (more_b, group_b))
    assert count.item() == 12
    got, got_grads = mean_and_gradients(total / count, *inputs)
    assert got == pytest.approx(want, rel=1e-6)
    for one, other in zip(got_grads, want_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
