"""Find the partner of a sample in another modality: contrastive fine-tuning of the shared space.

head: {type: retrieval, pairs: [[image, text]]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mmfm.heads.base import CachedHeadObjective, Head
from mmfm.model import Model
from mmfm.objectives.base import Objective
from mmfm.objectives.base.pairs import PairsConfig
from mmfm.objectives.contrastive import Contrastive
from mmfm.types import Batch, Features, LossTerms, Read


@dataclass(kw_only=True)
class Config(PairsConfig):
    """The settings of the contrastive objective; no labels are needed."""

    def build(self, model: Model, label_names: Sequence[str]) -> RetrievalHead:
        return RetrievalHead(self, model)


class RetrievalHead(Head):
    """The embeddings of each pair, learnt by InfoNCE over the global batch. The evaluation task
    ``retrieval`` judges them.
    """

    def __init__(self, config: Config, model: Model) -> None:
        super().__init__()
        self.contrastive = Contrastive(config, model)
        self.reads: tuple[Read, ...] = self.contrastive.reads

    def objective(self) -> Objective:
        return CachedHeadObjective(self, self.contrastive)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return self.contrastive.counts(batch, {})

    def forward(self, features: Mapping[Read, Features], batch: Batch) -> dict[str, Tensor]:
        """For each pair the embeddings ``a_b.a`` and ``a_b.b`` [n,E] and their groups."""
        return self.contrastive.rows(dict(features), batch)

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> LossTerms:
        return self.contrastive.loss(outputs, self.contrastive.scalars())

    def predict(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return outputs
