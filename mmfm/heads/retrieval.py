"""Find the partner of a sample in another modality: contrastive fine-tuning of the shared space.

    head:
      type: retrieval
      pairs: [[image, text]]
      hard_negatives: {per_sample: 1, among: 50, skip: 0, every: 200}

With `hard_negatives` each sample of a step brings others along that the current model takes for its
partner, searched for in all of the training data every so many steps (`mmfm.train.mining`; ANCE,
arXiv:2007.00808). They are further negatives of all of the step's samples.
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
class HardNegativesConfig:
    """For each sample and each side of a pair, `per_sample` negatives are drawn from the `among`
    nearest after the first `skip`, which may well be right though they aren't known to be. They
    are searched for anew every `every` steps.
    """

    per_sample: int = 1
    among: int = 50
    skip: int = 0
    every: int = 200

    def __post_init__(self) -> None:
        for name, least in (("per_sample", 1), ("skip", 0), ("every", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least {least}")
        if self.among < self.per_sample:
            raise ValueError(
                f"among = {self.among} must be at least per_sample = {self.per_sample}"
            )


@dataclass(kw_only=True)
class Config(PairsConfig):
    """The settings of the contrastive objective; no labels are needed."""

    hard_negatives: HardNegativesConfig | None = None

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
        self.hard_negatives = config.hard_negatives

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
