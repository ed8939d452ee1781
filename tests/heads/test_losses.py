"""Losses of single samples, against torch and torchvision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from mmfm.heads._losses import binary_cross_entropy, soft_cross_entropy

N, C = 7, 4


def _drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(N, C, generator=draw, dtype=torch.float64)
    labels = torch.randint(C, (N,), generator=draw)
    return logits, labels, torch.rand(C, generator=draw, dtype=torch.float64) + 0.5


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_whole_labels_with_weights_are_torchs(smoothing: float) -> None:
    logits, labels, weight = _drawn()
    one_hot = F.one_hot(labels, C).double()
    each = soft_cross_entropy(logits, one_hot, weight, label_smoothing=smoothing)
    want = F.cross_entropy(
        logits, labels, weight=weight, label_smoothing=smoothing, reduction="none"
    )
    torch.testing.assert_close(each, want, rtol=1e-12, atol=0)
    mean = F.cross_entropy(logits, labels, weight=weight, label_smoothing=smoothing)
    torch.testing.assert_close(each.sum() / weight[labels].sum(), mean, rtol=1e-12, atol=0)


def test_shares_of_classes_are_torchs() -> None:
    logits, _, weight = _drawn()
    shares = torch.rand(N, C, dtype=torch.float64).softmax(-1)
    want = F.cross_entropy(logits, shares, weight=weight, reduction="none")
    torch.testing.assert_close(soft_cross_entropy(logits, shares, weight), want, rtol=1e-12, atol=0)


def test_the_focal_loss_of_one_class_is_its_formula() -> None:
    logits, labels, _ = _drawn()
    p = logits.softmax(-1)[torch.arange(N), labels]
    each = soft_cross_entropy(logits, F.one_hot(labels, C).double(), torch.ones(C), focal=2.0)
    torch.testing.assert_close(each, -((1 - p) ** 2) * p.log(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("focal", [0.0, 2.0])
def test_several_labels_are_torchs_and_torchvisions(focal: float) -> None:
    logits, _, weight = _drawn()
    target = (torch.rand(N, C) < 0.5).double()
    each = binary_cross_entropy(logits, target, torch.ones(C), focal=focal)
    theirs = sigmoid_focal_loss(logits, target, alpha=-1, gamma=focal).mean(1)
    torch.testing.assert_close(each, theirs, rtol=1e-12, atol=0)
    if not focal:
        weighted = binary_cross_entropy(logits, target, weight)
        want = F.binary_cross_entropy_with_logits(
            logits, target, pos_weight=weight, reduction="none"
        )
        torch.testing.assert_close(weighted, want.mean(1), rtol=1e-12, atol=0)


def test_smoothing_of_several_labels() -> None:
    logits, _, _ = _drawn()
    target = torch.ones(N, C, dtype=torch.float64)
    each = binary_cross_entropy(logits, target, torch.ones(C), label_smoothing=0.2)
    want = F.binary_cross_entropy_with_logits(logits, 0.9 * target, reduction="none").mean(1)
    torch.testing.assert_close(each, want, rtol=1e-12, atol=0)


def test_a_small_exponent_has_a_finite_gradient_where_all_is_clear() -> None:
    logits = torch.tensor([[60.0, 0.0], [-60.0, 500.0]], requires_grad=True)
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    for loss in (soft_cross_entropy, binary_cross_entropy):
        logits.grad = None
        loss(logits, target, torch.ones(2), focal=0.5).sum().backward()
        assert logits.grad.isfinite().all()
