"""The losses of masked objectives sample by sample, with all that a sample has and with less.

    found = predictor.masked_losses_batches(data, {"masked_text": unigram}, without=[("image",)])
    found["masked_text"].loss[("image",)]  # [n]: as if no sample had a picture

The masks come from the samples' seeds, so every context is asked for the same positions. What a
sample lacks in a context is taken out of the batch before the encoders run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmfm.objectives.base import MaskedObjective
from mmfm.task import Output, PretrainTask, without
from mmfm.types import Batch, Features

Context = tuple[str, ...]
"""The modalities that a sample is taken to lack; () is all that it has."""
Baseline = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(targets [N,…], grid positions [N]) ▶ (error [N], prediction [N,…]), without looking at the rest.
"""
Columns = dict[str, Tensor]


@dataclass
class MaskedLosses:
    """One entry a sample, ordered by id: sums over its `count` masked positions.

    `loss` and, for objectives that predict ids, the number `correct`, by context; the same of the
    baseline. `has`: which samples have each modality that the objective reads. Empty where no
    sample has the objective's own.
    """

    row_ids: list[str]
    groups: NDArray[np.int64]
    count: NDArray[np.float32]
    loss: dict[Context, NDArray[np.float32]]
    correct: dict[Context, NDArray[np.float32]]
    has: dict[str, NDArray[np.float32]]
    baseline_loss: NDArray[np.float32]
    baseline_correct: NDArray[np.float32] | None

    @classmethod
    def of(
        cls,
        row_ids: list[str],
        groups: NDArray[np.int64],
        columns: Mapping[str, NDArray[np.float32]],
    ) -> MaskedLosses:
        def by_context(kind: str) -> dict[Context, NDArray[np.float32]]:
            keys = [key.split("/") for key in columns]
            return {tuple(k[1:]): columns["/".join(k)] for k in keys if k[0] == kind}

        none = np.zeros(0, np.float32)
        return cls(
            row_ids=row_ids,
            groups=groups,
            count=columns.get("count", none),
            loss=by_context("loss"),
            correct=by_context("correct"),
            has={m: column for (m,), column in by_context("has").items()},
            baseline_loss=columns.get("baseline_loss", none),
            baseline_correct=columns.get("baseline_correct"),
        )


def losses_by_context(
    run: Callable[..., Output],
    task: PretrainTask,
    batch: Batch,
    baselines: Mapping[str, Baseline],
    contexts: Sequence[Context],
) -> dict[str, tuple[Tensor, Columns]]:
    """Objective ▶ (samples [n], columns [n] of `MaskedLosses`) of one prepared batch.

    `run` calls the task. Objectives whose modality the batch lacks are left out, and contexts that
    take away the objective's own modality or one that it doesn't read.
    """
    masked = {name: task.masked[name] for name in baselines}
    present = {n: o for n, o in masked.items() if o.modality in batch["masks"]}
    outputs: dict[frozenset[str], Output] = {}
    found: dict[str, tuple[Tensor, Columns]] = {}
    for context in ((), *contexts):
        gone = frozenset(context) & set(batch["rows"])
        fitting = [name for name, o in present.items() if _fits(context, o)]
        if fitting and gone not in outputs:
            still = [name for name, o in present.items() if o.modality not in gone]
            outputs[gone] = run(without(batch, gone), each=still)
        for name in fitting:
            output = outputs[gone]
            features = output.features[present[name].reads[0]]
            columns = _columns(output.losses[name], features, present[name])
            if not context:
                samples = features.rows[present[name].modality]
                columns |= _baseline_columns(baselines[name], features, present[name])
                columns |= {
                    f"has/{m}": torch.isin(samples, batch["rows"].get(m, samples[:0]))
                    for m in present[name].reads[0].modalities
                }
                found[name] = (samples, {})
            found[name][1].update({"/".join([key, *context]): v for key, v in columns.items()})
    return found


def _fits(context: Context, objective: MaskedObjective) -> bool:
    return set(context) <= set(objective.reads[0].modalities) - {objective.modality}


def _columns(
    found: tuple[Tensor, Tensor], features: Features, objective: MaskedObjective
) -> Columns:
    """`found`: (error, prediction) at the masked positions."""
    masked_BG = features.masked[objective.modality]
    error_N, prediction_N = found
    columns = {"loss": _sums(error_N, masked_BG)}
    if not prediction_N.is_floating_point():
        hits_N = prediction_N == objective.target(features.targets[objective.modality])[masked_BG]
        columns["correct"] = _sums(hits_N, masked_BG)
    return columns


def _baseline_columns(
    baseline: Baseline, features: Features, objective: MaskedObjective
) -> Columns:
    masked_BG = features.masked[objective.modality]
    target_N = objective.target(features.targets[objective.modality])[masked_BG]
    columns = _columns(baseline(target_N, masked_BG.nonzero()[:, 1]), features, objective)
    return {"count": masked_BG.sum(1)} | {f"baseline_{k}": v for k, v in columns.items()}


def _sums(values_N: Tensor, masked_BG: Tensor) -> Tensor:
    """Values at the masked positions ▶ their sum for each row [B]."""
    sums = torch.zeros(len(masked_BG), dtype=torch.float64, device=values_N.device)
    return sums.index_add_(0, masked_BG.nonzero()[:, 0], values_N.double())
