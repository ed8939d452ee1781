"""Mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899): training samples that are partly another,
with that share of its label.

    head: {type: classification, label: category, mix: {mixup: 0.2, cutmix: 1.0, share: 0.5}}

A sample's partner is the next one of its canonical stream that has the same modalities, and how
much is mixed is drawn from its own seed; so nothing depends on ranks or micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmfm.masking import derive_seed, salt
from mmfm.model import Model
from mmfm.negatives import streams
from mmfm.types import IGNORE_INDEX, Batch, Read

MIXED_WITH, MIXED_SHARE = "mixed_with", "mixed_share"
"""[B] int64: the sample that is mixed into each, and [B] float32: the share that stays its own."""


@dataclass(kw_only=True)
class MixConfig:
    """`mixup`, `cutmix`: the parameter of Beta(a, a), by which the share is drawn; 0 = never. With
    both, half of the samples are for either. `share`: of the samples that are mixed. CutMix is for
    pictures alone.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.mixup < 0 or self.cutmix < 0 or not 0 <= self.share <= 1:
            raise ValueError("mixup and cutmix must be 0 or more, share from 0 to 1")

    @property
    def active(self) -> bool:
        """Whether anything is mixed."""
        return self.share > 0 and max(self.mixup, self.cutmix) > 0


def check_mixable(config: MixConfig, read: Read, model: Model) -> None:
    """ValueError where what is read can't be mixed."""
    if not config.active:
        return
    for modality in read.modalities:
        encoder = model.encoder(modality)
        if encoder.word_embedding() is not None:
            raise ValueError(
                f"mix: the words of {modality!r} can't be mixed; leave it out of head.modalities, "
                "or head.mix"
            )
        if encoder.cache:
            raise ValueError(
                f"mix: the encoder of {modality!r} is cached, so its inputs can't change: set "
                f"model.encoders.{modality}.cache=false"
            )
    if config.cutmix and (len(read.modalities) > 1 or "size" not in encoder.spec):
        raise ValueError(
            f"mix.cutmix is for pictures alone, but head.modalities are "
            f"{', '.join(read.modalities)}; mix.mixup takes pictures and sounds"
        )


def mix(config: MixConfig, batch: Batch, modalities: Sequence[str]) -> Batch:
    """`batch` with mixed inputs, `MIXED_WITH` and `MIXED_SHARE`."""
    there = [m for m in modalities if m in batch["rows"]]
    if not config.active or not there:
        return batch
    partner = _partners(batch, there)
    share = torch.ones(len(partner), device=partner.device)
    inputs = {m: batch[m].clone() for m in there}
    masks = {f"{m}_mask": batch[f"{m}_mask"].clone() for m in there if f"{m}_mask" in batch}
    row_of = {m: _row_of(batch, m) for m in there}
    seeds = derive_seed(batch["mask_seed"], salt("mix")).tolist()
    for i, (other, seed) in enumerate(zip(partner.tolist(), seeds, strict=True)):
        rng = np.random.default_rng(seed % 2**63)
        if other == i or rng.random() >= config.share:
            continue
        cut = config.cutmix > 0 and (config.mixup == 0 or rng.random() < 0.5)
        a = config.cutmix if cut else config.mixup
        own_share = float(rng.beta(a, a))
        for m in there:
            own, theirs = row_of[m][i], row_of[m][other]
            if own < 0:
                continue
            if cut:
                own_share = _paste(inputs[m][own], batch[m][theirs], own_share, rng)
            else:
                inputs[m][own] = own_share * batch[m][own] + (1 - own_share) * batch[m][theirs]
            if f"{m}_mask" in masks:
                masks[f"{m}_mask"][own] |= batch[f"{m}_mask"][theirs]
        share[i] = own_share
    return {**batch, **inputs, **masks, MIXED_WITH: partner, MIXED_SHARE: share}


def mixed(target_BC: Tensor, batch: Batch) -> Tensor:
    """The targets of the samples as `mix` left them: shares of their own and of the other one."""
    if MIXED_WITH not in batch:
        return target_BC
    share: Tensor = batch[MIXED_SHARE][:, None]
    return share * target_BC + (1 - share) * target_BC[batch[MIXED_WITH]]


def _paste(into: Tensor, of: Tensor, own_share: float, rng: np.random.Generator) -> float:
    """Put a box of `of` [C,H,W] into a picture, in place; the share that stays its own."""
    height, width = into.shape[1:]
    side = (1 - own_share) ** 0.5
    down, across = rng.random() * height, rng.random() * width
    top, bottom = (round(min(max(down + s * side * height / 2, 0), height)) for s in (-1, 1))
    left, right = (round(min(max(across + s * side * width / 2, 0), width)) for s in (-1, 1))
    into[:, top:bottom, left:right] = of[:, top:bottom, left:right]
    return 1 - float((bottom - top) * (right - left)) / (height * width)


def _partners(batch: Batch, modalities: Sequence[str]) -> Tensor:
    """[B] int64: the next sample with a label of the same stream that has the same of `modalities`;
    itself where there is no other.
    """
    labels = batch["labels"]
    known = (labels if labels.ndim == 1 else labels[:, 0]) != IGNORE_INDEX
    kind = streams(batch) * 2 ** len(modalities)
    for bit, modality in enumerate(modalities):
        kind = kind.index_add(
            0, batch["rows"][modality], torch.full_like(batch["rows"][modality], 2**bit)
        )
    partner = torch.arange(len(labels), device=labels.device)
    for value in torch.unique(kind[known]).tolist():
        members = ((kind == value) & known).nonzero()[:, 0]
        partner[members] = members.roll(-1)
    return partner


def _row_of(batch: Batch, modality: str) -> list[int]:
    """For each sample its row of the modality, -1 where it has none."""
    found = [-1] * len(batch["sample_id"])
    for row, sample in enumerate(batch["rows"][modality].tolist()):
        found[sample] = row
    return found
