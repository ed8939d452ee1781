"""Distillation of similarities: which samples of the whole step are like which (affinity mimicking,
TinyCLIP, arXiv:2309.12314).
"""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F
from torch import Tensor

from mmfm import distributed
from mmfm.model import Model
from mmfm.objectives._distillation.teacher import Source, Teacher
from mmfm.objectives.base import ReadFeatures
from mmfm.objectives.base.pairs import PairObjective
from mmfm.types import Batch


class LogitDistillation(PairObjective):
    """For each pair the divergence of the student's from the teacher's distributions over the
    partners.
    """

    def __init__(
        self, source: Source, pairs: list[list[str]], temperature: float, model: Model
    ) -> None:
        super().__init__(pairs, model)
        self.raw = tuple(dict.fromkeys(m for read in self.reads for m in read.modalities))
        self.temperature = temperature
        self.teacher = Teacher(source, self.reads, model)
        self.key = f"taught {json.dumps([source, pairs])}"

    def prepare(self, batch: Batch) -> Batch:
        return {**batch, self.key: self._taught(batch)} if self.training else batch

    def rows(self, features: ReadFeatures, batch: Batch) -> dict[str, Tensor]:
        """Those of the pairs, and ``teacher_a``, ``teacher_b`` [n,E'] beside ``a`` and ``b``."""
        taught = batch[self.key] if self.key in batch else self._taught(batch)
        return {**super().rows(features, batch), **taught}

    def _taught(self, batch: Batch) -> dict[str, Tensor]:
        rows = super().rows(self.teacher.features(batch, self.reads), batch)
        taught = {}
        for key, value in rows.items():
            pair, _, part = key.rpartition(".")
            if part != "group":
                taught[f"{pair}.teacher_{part}"] = value
        return taught

    def scalars(self) -> dict[str, Tensor]:
        return {}

    def compare(self, rows: dict[str, Tensor], scalars: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return affinity_loss(
            (rows["a"], rows["b"]), (rows["teacher_a"], rows["teacher_b"]), self.temperature
        )


def affinity_loss(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], temperature: float
) -> tuple[Tensor, Tensor]:
    """The sum over this rank's N rows of KL(teacher ‖ student) between their distributions over the
    partners on all ranks, the mean of both directions, and N; collective.

    Both sides of `student` [N,E] and of `teacher` [N,E'] have length 1. Every rank must hold the
    same N.
    """
    ours = [x.float() for x in student]
    theirs = [x.detach().float() for x in teacher]
    all_ours = [distributed.all_gather_rows_with_grad(x) for x in ours]
    all_theirs = [distributed.all_gather_rows(x) for x in theirs]
    total = torch.zeros((), device=ours[0].device)
    for query, key in ((0, 1), (1, 0)):
        student_NM = F.log_softmax(ours[query] @ all_ours[key].T / temperature, dim=1)
        teacher_NM = F.log_softmax(theirs[query] @ all_theirs[key].T / temperature, dim=1)
        total = total + F.kl_div(student_NM, teacher_NM, reduction="sum", log_target=True)
    return total / 2, torch.tensor(float(len(ours[0])), device=ours[0].device)
