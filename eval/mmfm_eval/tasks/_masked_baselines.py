"""Baselines of the masked task, which know the training data and no sample's context."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmfm import distributed
from mmfm.objectives.base import MaskedObjective
from mmfm.types import Batch, to_device


class Baseline(ABC):
    """Fitted to what stands at the positions that a mask may choose; see `mmfm.masked_losses`.

    `chance`: the loss of a uniform guess, where there is one. `sums`: what all ranks add up.
    """

    name: str
    chance: float | None = None
    sums: list[Tensor]

    @abstractmethod
    def add(self, target_BG: Tensor, maskable_BG: Tensor) -> None:
        """Count the targets [B,G,…] at the maskable positions of some training samples."""

    @abstractmethod
    def __call__(self, target_N: Tensor, place_N: Tensor) -> tuple[Tensor, Tensor]:
        """(error [N], prediction [N,…]) for targets [N,…] at their grid positions."""


class Unigram(Baseline):
    """The frequency of each id, one added to every count of the vocabulary (Laplace)."""

    name = "word frequencies"

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self.vocab_size = vocab_size
        self.chance = math.log(vocab_size)
        self.sums = [torch.zeros(vocab_size, dtype=torch.float64, device=device)]

    def add(self, target_BG: Tensor, maskable_BG: Tensor) -> None:
        self.sums[0] += torch.bincount(target_BG[maskable_BG], minlength=self.vocab_size)

    def __call__(self, target_N: Tensor, place_N: Tensor) -> tuple[Tensor, Tensor]:
        counts = self.sums[0] + 1
        likeliest = self.sums[0].argmax()
        return -(counts / counts.sum()).log()[target_N], likeliest.expand(len(target_N))


class MeanPatch(Baseline):
    """The mean patch at each grid position."""

    name = "mean patch"

    def __init__(self, grid_length: int, patch_dim: int, device: torch.device) -> None:
        self.sums = [
            torch.zeros(grid_length, size, dtype=torch.float64, device=device)
            for size in (patch_dim, 1)
        ]

    def add(self, target_BG: Tensor, maskable_BG: Tensor) -> None:
        G = target_BG.shape[1]  # sounds may be shorter than the longest that is allowed
        shown = maskable_BG[..., None].double()
        self.sums[0][:G] += (target_BG.double() * shown).sum(0)
        self.sums[1][:G] += shown.sum(0)

    def __call__(self, target_N: Tensor, place_N: Tensor) -> tuple[Tensor, Tensor]:
        mean_GP = (self.sums[0] / self.sums[1].clamp(min=1)).to(target_N.dtype)
        predicted_NP = mean_GP[place_N]
        return F.mse_loss(predicted_NP, target_N, reduction="none").mean(1), predicted_NP


def fit(predictor: Any, data: Iterable[Batch], names: Sequence[str]) -> dict[str, Any]:
    """The baseline of each objective in `names`, fitted to every sample of `data` once.
    Collective.
    """
    model, device = predictor.model, predictor.device
    masked: dict[str, MaskedObjective] = {name: predictor.task.masked[name] for name in names}
    found: dict[str, Baseline] = {}
    for name, objective in masked.items():
        encoder = model.encoder(objective.modality)
        if encoder.has_patches:
            found[name] = MeanPatch(encoder.grid_length, encoder.patch_dim, device)
        else:
            found[name] = Unigram(encoder.spec["vocab_size"], device)
    seen: set[str] = set()
    for batch in data:
        new = _first_time(batch["sample_id"], seen)
        batch = to_device(batch, device)
        for name, objective in masked.items():
            m = objective.modality
            if m not in batch:
                continue
            encoder, inputs, valid = model.encoder(m), batch[m], batch.get(f"{m}_mask")
            stands = encoder.patchify(inputs, valid) if encoder.has_patches else inputs
            maskable = encoder.maskable(inputs, valid)
            maskable = maskable & new.to(device)[batch["rows"][m]][:, None]
            found[name].add(objective.target(stands), maskable)
    for baseline in found.values():
        for total in baseline.sums:
            distributed.all_reduce_sum(total)
    return found


def _first_time(ids: list[str], seen: set[str]) -> Tensor:
    """[B] bool: the samples that no rank had before; `seen` takes all in. Collective.

    Where the samples don't divide among ranks, some come twice.
    """
    by_rank = distributed.all_gather_object(ids)
    earlier = {i for theirs in by_rank[: distributed.rank()] for i in theirs} | seen.intersection(
        ids
    )
    first = torch.tensor([i not in earlier for i in ids])
    seen.update(*by_rank)
    return first
