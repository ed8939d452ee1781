"""grad_cache: the losses that compare all samples of a step, over the rows of all its micro-batches
(Gao et al. 2021, arXiv:2101.06983).

The rows are computed without gradient first, the losses' gradients at them are kept, and each
micro-batch's own forward and backward then takes its part of those in place of the losses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmfm.task import StepRows
from mmfm.types import Batch


def cached_gradients(
    engine: Any,
    batches: list[Batch],
    counts: dict[str, Tensor],
    sums: dict[str, Tensor],
    scalars: StepRows,
) -> list[StepRows]:
    """The gradient of the cached losses at each micro-batch's rows; adds the losses to `sums` and
    the values of the objectives' own parameters to `scalars`; collective.

    `counts`: of each loss over the global batch.
    """
    task = engine.module
    with torch.no_grad():
        outputs = [engine(batch, rows_only=True) for batch in batches]
    assert all(
        set(o.rows[name]) == set(rows) for o in outputs for name, rows in outputs[0].rows.items()
    ), "micro-batches of a step have the same composition"
    rows = {
        name: {key: torch.cat([o.rows[name][key] for o in outputs]) for key in first}
        for name, first in outputs[0].rows.items()
    }
    scalars.update(outputs[0].scalars)
    leaves = {
        (name, key): value.detach().requires_grad_()
        for part in (rows, scalars)
        for name, values in part.items()
        for key, value in values.items()
        if value.is_floating_point()
    }
    for (name, key), leaf in leaves.items():
        (rows if key in rows[name] else scalars)[name][key] = leaf
    losses = task.cached_losses(rows, scalars)
    loss = task.total(losses, counts)
    found: tuple[Tensor | None, ...] = (None,) * len(leaves)
    if loss.requires_grad:
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    for name, (total, _) in losses.items():
        sums[name] = sums[name] + total.detach()
    split: list[StepRows] = [{name: {} for name in rows} for _ in batches]
    for (name, key), gradient in zip(leaves, found, strict=True):
        if gradient is None:
            continue
        if key in scalars[name]:  # the parameter's gradient counts once a step
            split[0][name][key] = gradient
            continue
        sizes = [len(o.rows[name][key]) for o in outputs]
        for part, piece in zip(split, torch.split(gradient, sizes), strict=True):
            part[name][key] = piece
    return split
