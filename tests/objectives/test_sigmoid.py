"""The sigmoid loss against open_clip, transformers and brute force; what it holds in memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmfm.config import ConfigError, from_dict
from mmfm.objectives.sigmoid import Config, sigmoid_loss
from mmfm.task import PretrainTask, PretrainTaskConfig
from tests import tiny

GROUPS = torch.tensor([0, 1, 2, 0, 3, 4, 1, 5, 0, 6, 7, 8])
SCALE, BIAS = 7.0, -3.0


def inputs(n: int = 12, width: int = 8, seed: int = 0, dtype=torch.float32) -> list[Tensor]:
    """Embeddings a and b, scale and bias, with gradient."""
    generator = torch.Generator().manual_seed(seed)
    a, b = F.normalize(torch.randn(2, n, width, generator=generator), dim=-1).to(dtype)
    made = [a, b, torch.tensor([SCALE], dtype=dtype), torch.tensor([BIAS], dtype=dtype)]
    return [x.requires_grad_() for x in made]


def ours(given: list[Tensor], group: Tensor, chunk: int = 5, how: str = "mask") -> Tensor:
    a, b, scale, bias = given
    total, count = sigmoid_loss(a, b, group, scale, bias, chunk, how)
    assert count.item() == len(a)
    return total / count


def reference(given: list[Tensor], group: list[int], how: str) -> Tensor:
    """Every two samples by themselves: do they belong together?"""
    a, b, scale, bias = given
    losses = []
    for i in range(len(a)):
        for j in range(len(b)):
            equal = group[i] == group[j]
            if how == "mask" and equal and i != j:
                continue
            together = equal if how == "positive" else i == j
            logit = scale * (a[i] @ b[j]) + bias
            losses.append(-F.logsigmoid(logit if together else -logit))
    return torch.stack(losses).sum() / len(a)


def assert_equal_with_gradients(got: Tensor, want: Tensor, mine, others, rtol: float) -> None:
    assert got.item() == pytest.approx(want.item(), rel=rtol)
    of_mine = torch.autograd.grad(got, mine)
    of_others = torch.autograd.grad(want, others)
    for one, other in zip(of_mine, of_others, strict=True):
        error = (one.double() - other.double()).norm() / other.double().norm()
        assert error < rtol, f"{error:.1e}"


def test_equals_open_clip() -> None:
    from open_clip.loss import SigLipLoss

    given = inputs()
    want = SigLipLoss()(*given)
    assert_equal_with_gradients(ours(given, torch.arange(12)), want, given, given, 1e-6)


def test_equals_transformers() -> None:
    from transformers import SiglipConfig, SiglipModel

    small = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
    small |= {"num_attention_heads": 2}
    torch.manual_seed(0)
    model = SiglipModel(
        SiglipConfig(
            text_config={**small, "vocab_size": 20, "max_position_embeddings": 6},
            vision_config={**small, "image_size": 8, "patch_size": 4},
        )
    ).eval()
    with torch.no_grad():
        model.logit_scale.fill_(1.5)
        model.logit_bias.fill_(-2.0)
        found = model(torch.randint(20, (5, 6)), torch.randn(5, 3, 8, 8), return_loss=True)
        given = [found.text_embeds, found.image_embeds, model.logit_scale.exp(), model.logit_bias]
        assert found.logits_per_text.std() > 0.1
        assert ours(given, torch.arange(5)).item() == pytest.approx(found.loss.item(), rel=1e-6)


@pytest.mark.parametrize("how", ["mask", "positive"])
def test_equal_groups_against_brute_force(how: str) -> None:
    given, exact = inputs(seed=2), inputs(seed=2, dtype=torch.float64)
    want = reference(exact, GROUPS.tolist(), how)
    got = ours(given, GROUPS, how=how)
    assert_equal_with_gradients(got, want, given, exact, 1e-6)
    assert got.item() != pytest.approx(ours(given, torch.arange(12)).item(), rel=1e-3)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_the_chunk_makes_no_difference(chunk: int) -> None:
    given, group = inputs(n=64), torch.arange(64) % 40
    want = ours(given, group, chunk=64)
    assert_equal_with_gradients(ours(given, group, chunk), want, given, given, 1e-6)


class Largest(TorchDispatchMode):
    """The most numbers that any tensor held."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            self.numel = max(self.numel, x.numel() if isinstance(x, Tensor) else 0)
        return out


@pytest.mark.parametrize(("chunk", "most"), [(4, 4 * 64), (16, 16 * 64), (64, 64 * 64)])
def test_no_tensor_is_larger_than_a_chunk_against_all(chunk: int, most: int) -> None:
    """Forward and backward; the embeddings themselves are smaller."""
    given = inputs(n=64, width=2)
    with Largest() as largest:
        torch.autograd.grad(ours(given, torch.arange(64), chunk), given)
    assert largest.numel == most


def test_no_logits_are_kept_for_the_backward() -> None:
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()), lambda x: x):
        ours(inputs(n=64, width=2), torch.arange(64), chunk=4)
    assert max(kept, default=0) <= 64 * 2


def test_no_rows_at_all() -> None:
    empty = torch.zeros(0, 8, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    total, count = sigmoid_loss(empty, empty, none, torch.ones(1), torch.zeros(1), 4)
    assert (total.item(), count.item()) == (0.0, 0.0)


def test_bf16_embeddings_are_compared_in_fp32() -> None:
    given = [x.detach() for x in inputs()]
    low = [x.bfloat16() for x in given[:2]] + given[2:]
    high = [x.float() for x in low]
    assert ours(low, GROUPS).item() == ours(high, GROUPS).item()


# ------------------------------------------------------------------------------ the objective


def build(tokenizer: str, **settings):
    task = tiny.task_settings(tokenizer)
    task["objectives"] = {"s": {"type": "sigmoid", **settings}}
    torch.manual_seed(0)
    return PretrainTask.build(from_dict(PretrainTaskConfig, task))


def test_it_starts_as_in_the_paper(tokenizer) -> None:
    objective = build(tokenizer).objectives["s"]
    scalars = objective.scalars()
    assert scalars["logit_scale"].item() == pytest.approx(10.0)
    assert scalars["logit_bias"].item() == -10.0
    parameters = dict(objective.named_parameters())
    assert set(parameters) == {"logit_scale.log_scale", "logit_bias.bias"}
    assert all(p.shape == (1,) and p.requires_grad for p in parameters.values())
    other = build(tokenizer, temperature=0.5, logit_bias=-2.0, learn_temperature=False)
    scalars = other.objectives["s"].scalars()
    assert (scalars["logit_scale"].item(), scalars["logit_bias"].item()) == (2.0, -2.0)
    assert not scalars["logit_scale"].requires_grad


def test_the_settings_reach_the_loss(tokenizer, monkeypatch) -> None:
    seen = []

    def spy(*arguments):
        seen.append(arguments)
        return sigmoid_loss(*arguments)

    monkeypatch.setattr("mmfm.objectives.sigmoid.sigmoid_loss", spy)
    pairs = [["image", "text"], ["audio+image", "text"]]
    task = build(tokenizer, pairs=pairs, chunk=3, equal_group="positive")
    batch = task.prepare(tiny.make_batch(0))
    losses, counts = task(batch).losses, task.counts(batch)
    assert set(losses) == {"s/image_text", "s/audio+image_text"} == set(counts)
    assert [arguments[5:] for arguments in seen] == [(3, "positive")] * 2
    for name, (_, count) in losses.items():
        assert count.item() == counts[name].item() > 0
    # The bias that it starts with says "no" to nearly all.
    total = task.total(losses, counts)
    grads = torch.autograd.grad(total, list(task.objectives["s"].parameters()))
    assert all(g.abs() > 0 for g in grads)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk": 0}, r"objectives\.s: chunk = 0 must be at least 1"),
        ({"pairs": [["image", "video"]]}, r"objectives\.s: pairs: 'video' names 'video'"),
        ({"pairs": [["image"]]}, r"pairs = \[\['image'\]\]: needs a list of pairs"),
        ({"temperature": 0.001}, r"temperature = 0\.001 is below 1 / max_logit_scale = 0\.01"),
        ({"equal_group": "keep"}, r"objectives\.s\.equal_group = 'keep'"),
    ],
)
def test_refusals(tokenizer, settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tokenizer, **settings)


def test_defaults() -> None:
    assert (Config().temperature, Config().logit_bias, Config().equal_group) == (0.1, -10.0, "mask")
