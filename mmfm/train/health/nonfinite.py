"""Where a number that is none came from: which weight, input, module or gradient, on which rank,
from which samples.

A step is checked between its last backward and the optimiser's step, so the weights are still good
and the step can be run again, watched. What is found is raised as one `NonFiniteError`, whose
`report` the loop writes to ``nonfinite.json`` in the run's folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmfm import distributed
from mmfm.task import StepRows, in_masked_view
from mmfm.train.engine.gradients import local_gradients
from mmfm.types import Batch
from mmfm.weights import some


class NonFiniteError(ValueError):
    """A loss or a gradient that is not finite. `report`: what every rank found, as plain JSON."""

    def __init__(self, message: str, report: dict[str, Any]) -> None:
        super().__init__(message)
        self.report = report


def raise_nonfinite(
    engine: Any,
    step: int,
    batches: Sequence[Batch],
    gradients: Sequence[StepRows] | None,
    losses: dict[str, float],
) -> None:
    """Run the step again, find out, and raise; collective.

    `losses`: the step's mean losses, of which one may be the reason.
    """
    weights = [name for name, p in _own_weights(engine.module) if not _finite(p)]
    named = [name for name, gradient in local_gradients(engine) if not _finite(gradient)]
    watched = [_outputs(engine, batch, i) for i, batch in enumerate(batches)]  # collective
    pairs = zip(batches, watched, strict=True)
    parts = [_inputs(batch, i) or output for i, (batch, output) in enumerate(pairs)]
    found = [part for part in parts if part]
    if not any(distributed.all_gather_object(bool(found or weights))):
        parts = [
            _backward(engine, batch, i, None if gradients is None else gradients[i])
            for i, batch in enumerate(batches)
        ]
        found = [part for part in parts if part]
    mine = {"rank": distributed.rank(), "weights": weights, "gradients": named, "found": found}
    report: dict[str, Any] = {
        "step": step,
        "losses": {k: v if math.isfinite(v) else str(v) for k, v in losses.items()},
        "ranks": distributed.all_gather_object(mine),
    }
    bad = [name for name, loss in losses.items() if not math.isfinite(loss)]
    what = f"the loss is not finite ({some(bad)})" if bad else "the gradient is not finite"
    raise NonFiniteError(
        f"step {step}: {what}: {_first(report['ranks'])}; nonfinite.json in the run's folder says "
        "more; the newest checkpoint is of an earlier step",
        report,
    )


def _first(ranks: list[dict[str, Any]]) -> str:
    """The likeliest cause in words: weights, else what came first in a rank's forward, else
    gradients.
    """
    for rank in ranks:
        if rank["weights"]:
            return f"the weights {some(rank['weights'])} are not (rank {rank['rank']})"
    for rank in ranks:
        for found in rank["found"]:
            samples = f", samples {some(found['samples'])}" if found["samples"] else ""
            place = f"rank {rank['rank']}, micro-batch {found['micro_batch']}"
            return f"it begins with the {found['what']} {found['where']} ({place}{samples})"
    names = [name for rank in ranks for name in rank["gradients"]]
    return f"the gradients of {some(names)} are not" if names else "it did not happen again"


def _inputs(batch: Batch, micro_batch: int) -> dict[str, Any] | None:
    for m, rows in batch["rows"].items():
        for key in (m, f"{m}_tokens", f"{m}_pooled"):
            if key in batch and not _finite(batch[key]):
                samples = [batch["sample_id"][i] for i in rows[_bad_rows(batch[key])].tolist()]
                return _finding("inputs of", m, micro_batch, samples)
    return None


def _outputs(engine: Any, batch: Batch, micro_batch: int) -> dict[str, Any] | None:
    """The first module whose output, or whose input already, is not finite."""
    found: list[dict[str, Any]] = []

    def look(name: str, inputs: Any, output: Any) -> None:
        bad = [t for t in _tensors(output) if not _finite(t)]
        if bad and not found:
            before = bool(inputs) and any(not _finite(t) for t in _tensors(inputs[0]))
            samples = _samples_of(engine.module, name, bad[0], batch)
            what = "inputs of" if before else "output of"
            found.append(_finding(what, name, micro_batch, samples))

    with _watched(engine.module, look), torch.no_grad():
        engine(batch)
    return found[0] if found else None


def _backward(
    engine: Any, batch: Batch, micro_batch: int, gradients: StepRows | None
) -> dict[str, Any] | None:
    """The last part of the task, in the order of the forward, whose output has a gradient that is
    not finite.
    """
    outputs: list[tuple[str, Tensor]] = []

    def keep(name: str, inputs: Any, output: Any) -> None:
        if name.count(".") < 3:
            outputs.extend((name, t) for t in _tensors(output) if t.requires_grad)

    with _watched(engine.module, keep):
        output = engine(batch, gradients=gradients)
    losses = [total for total, _ in output.losses.values()]
    losses += [] if output.surrogate is None else [output.surrogate]
    total = torch.stack([loss.float() for loss in losses]).sum()
    if not total.requires_grad or not outputs:
        return None
    tensors = [tensor for _, tensor in outputs]
    found = torch.autograd.grad(total, tensors, allow_unused=True)
    for (name, _), gradient in reversed(list(zip(outputs, found, strict=True))):
        if gradient is not None and not _finite(gradient):
            samples = _samples_of(engine.module, name, gradient, batch)
            return _finding("gradient at the output of", name, micro_batch, samples)
    return None


@contextmanager
def _watched(root: nn.Module, look: Callable[[str, Any, Any], None]) -> Iterator[None]:
    """Inside, `look(name, inputs, output)` sees every module of `root` after its forward."""
    hooks = [
        module.register_forward_hook(lambda _, given, output, name=name: look(name, given, output))
        for name, module in root.named_modules()
        if name
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _samples_of(root: nn.Module, name: str, tensor: Tensor, batch: Batch) -> list[str]:
    """The samples of the bad rows of a tensor inside an encoder; elsewhere rows are no samples, nor
    where it runs groups of them.
    """
    words = name.split(".")
    modality = words[2] if words[:2] == ["model", "encoders"] else None
    if modality is None or tensor.ndim < 2:
        return []
    if len(words) > 3 and root.get_submodule(".".join(words[:3])).norms is not None:
        return []
    for part in (batch, in_masked_view(batch)):
        rows = part["rows"].get(modality, torch.empty(0))
        if len(rows) == len(tensor):
            return [batch["sample_id"][i] for i in rows[_bad_rows(tensor)].tolist()]
    return []


def _finding(what: str, where: str, micro_batch: int, samples: list[str]) -> dict[str, Any]:
    return {"what": what, "where": where, "micro_batch": micro_batch, "samples": samples}


def _own_weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in module.named_parameters():
        yield name, getattr(parameter, "ds_tensor", parameter)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _bad_rows(tensor: Tensor) -> Tensor:
    return (~torch.isfinite(tensor)).flatten(1).any(1)
