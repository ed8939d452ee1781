"""Distillation of embeddings: the student's point where the teacher's do (CLIP-KD,
arXiv:2307.12732).
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from mmfm.model import Model
from mmfm.objectives._distillation.teacher import Source, Teacher
from mmfm.objectives.base import Objective, ReadFeatures, zero_term
from mmfm.objectives.base.pairs import embedding, present, side
from mmfm.types import Batch, LossTerms

Distance = Literal["cosine", "mse"]


class EmbeddingDistillation(Objective):
    """The distance of two normalised embeddings, through a learned linear map where the sizes
    differ; one term, named by what is embedded, counted in samples.
    """

    def __init__(self, source: Source, what: str, distance: Distance, model: Model) -> None:
        super().__init__()
        self.read = side(what, model, "modality")
        self.reads, self.raw = (self.read,), self.read.modalities
        self.term, self.distance = what, distance
        self.teacher = Teacher(source, self.reads, model)
        size = self.teacher.model.embed_dim
        self.project: nn.Module = nn.Identity()
        if size != model.embed_dim:
            self.project = nn.Linear(model.embed_dim, size, bias=False)

    def counts(self, batch: Batch, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        return {self.term: present(self.read, batch).sum().double()}

    def forward(self, features: ReadFeatures, batch: Batch) -> LossTerms:
        found = embedding(features[self.read], self.read)
        if found is None:
            return {self.term: zero_term(batch["group"])}
        taught = embedding(self.teacher.features(batch, self.reads)[self.read], self.read)
        assert taught is not None, "the teacher reads the same samples"
        error_B = distance(self._project(found[0]), taught[0], self.distance)
        return {self.term: (error_B.sum(), present(self.read, batch).sum())}

    def _project(self, embedding_BE: Tensor) -> Tensor:
        for parameter in self.project.parameters():
            embedding_BE = embedding_BE.to(parameter.dtype)
        projected: Tensor = self.project(embedding_BE).float()
        return projected


def distance(student_BE: Tensor, teacher_BE: Tensor, how: Distance) -> Tensor:
    """[B]: 1 - the cosine, or the mean of the squared differences."""
    if how == "cosine":
        return 1 - F.cosine_similarity(student_BE, teacher_BE, dim=-1)
    return F.mse_loss(student_BE, teacher_BE, reduction="none").mean(-1)
