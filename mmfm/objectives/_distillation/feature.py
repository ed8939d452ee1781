"""Distillation of features: an encoder's outputs predict the teacher's, without their scale
(FitNets, arXiv:1412.6550; normalised as in arXiv:2205.14141).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfm.model import Model
from mmfm.objectives._distillation.teacher import Source, Teacher
from mmfm.objectives.base import Objective, ReadFeatures, zero_term
from mmfm.types import Batch, LossTerms, Read

Outputs = Literal["pooled", "tokens"]


class FeatureDistillation(Objective):
    """Mean squared error of layer-normalised outputs after a learned linear map; one term, named by
    the modality, counted in samples or tokens.
    """

    def __init__(self, source: Source, modality: str, of: Outputs, model: Model) -> None:
        super().__init__()
        student = model.encoder(modality)
        if student.frozen:
            raise ValueError(
                f"what = feature teaches model.encoders.{modality}, which is frozen; set frozen: "
                "false, or what: embedding to teach its projection"
            )
        self.modality, self.of = modality, of
        self.read = Read("clean", (modality,))
        self.reads, self.raw = (self.read,), (modality,)
        self.teacher = Teacher(source, self.reads, model)
        teacher = self.teacher.model.encoder(modality)
        if of == "tokens" and (student.grid, student.grid_length) != (
            teacher.grid,
            teacher.grid_length,
        ):
            raise ValueError(
                f"of = tokens: the model has {student.grid_length} tokens of {modality} in a grid "
                f"{student.grid}, the teacher {teacher.grid_length} in {teacher.grid}; set of: "
                "pooled, or give both the same"
            )
        self.project = nn.Linear(student.width, teacher.width)

    def counts(self, batch: Batch, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        valid = self._valid(batch)
        return {
            self.modality: zero_term(batch["group"])[1].double()
            if valid is None
            else valid.sum().double()
        }

    def forward(self, features: ReadFeatures, batch: Batch) -> LossTerms:
        valid = self._valid(batch)
        if valid is None:
            return {self.modality: zero_term(batch["group"])}
        student = getattr(features[self.read], self.of)[self.modality]
        teacher = getattr(self.teacher.features(batch, self.reads)[self.read], self.of)[
            self.modality
        ]
        if student.shape[:-1] != teacher.shape[:-1]:
            raise ValueError(
                f"of = tokens: the model made {list(student.shape[:-1])} tokens of "
                f"{self.modality}, the teacher {list(teacher.shape[:-1])}; set of: pooled"
            )
        error = feature_error(self.project(student), teacher)
        return {self.modality: ((error * valid).sum(), valid.sum())}

    def _valid(self, batch: Batch) -> Tensor | None:
        """[B] or [B,L] bool: the outputs that are compared; None where no sample has any."""
        m = self.modality
        if m not in batch["rows"]:
            return None
        if self.of == "pooled":
            return torch.ones_like(batch["rows"][m], dtype=torch.bool)
        assert m in batch, f"distillation needs the raw inputs of {m} in the batch"
        return self.teacher.model.encoder(m).token_valid(batch[m], batch.get(f"{m}_mask"))


def feature_error(student: Tensor, teacher: Tensor) -> Tensor:
    """[…,D], [...,D] ▶ […]: the mean squared difference of both at mean 0 and variance 1."""
    one, other = (F.layer_norm(x.float(), x.shape[-1:]) for x in (student, teacher))
    return F.mse_loss(one, other, reduction="none").mean(-1)
