"""Losses of single samples, with shares of classes as targets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TINY = 1e-8
"""A power below 1 has no slope at 0."""


def soft_cross_entropy(
    logits_NC: Tensor,
    target_NC: Tensor,
    weight_C: Tensor,
    *,
    label_smoothing: float = 0.0,
    focal: float = 0.0,
) -> Tensor:
    """[N]: the cross-entropy with the shares `target`, which sum to 1, each class by its weight.

    The same as torch's for whole labels, weights and smoothing, before it divides by the weights of
    the labels. `focal`: a class of probability p counts (1 - p) ** focal of that
    (arXiv:1708.02002).
    """
    target = target_NC * (1 - label_smoothing) + label_smoothing / target_NC.shape[1]
    log_p = logits_NC.log_softmax(-1)
    each = -weight_C * target * log_p
    if focal:
        each = each * (1 - log_p.exp()).clamp(min=TINY) ** focal
    return each.sum(-1)


def binary_cross_entropy(
    logits_NC: Tensor,
    target_NC: Tensor,
    weight_C: Tensor,
    *,
    label_smoothing: float = 0.0,
    focal: float = 0.0,
) -> Tensor:
    """[N]: the mean over the classes of the binary cross-entropy; where the class is there it
    counts its weight.

    `label_smoothing` pulls both answers towards one half; `focal` as in `soft_cross_entropy`.
    """
    target = target_NC * (1 - label_smoothing) + label_smoothing / 2
    yes, no = -F.logsigmoid(logits_NC), -F.logsigmoid(-logits_NC)
    if focal:
        p = torch.sigmoid(logits_NC)
        yes = yes * (1 - p).clamp(min=TINY) ** focal
        no = no * p.clamp(min=TINY) ** focal
    return (weight_C * target * yes + (1 - target) * no).mean(-1)
