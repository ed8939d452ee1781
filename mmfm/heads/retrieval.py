"""Find the partner of a sample in another modality: contrastive fine-tuning of the shared space.

    head:
      type: retrieval
      pairs: [[image, text]]
      hard_negatives: {per_sample: 1, among: 50, skip: 0, every: 200}

With `hard_negatives` each sample of a step brings others along that the current model takes for its
partner, searched for in all of the training data every so many steps (`mmfm.train.mining`; ANCE,
arXiv:2007.00808). They are further negatives of all of the step's samples.

With ``matching: {weight: 1.0, temperature: 0.07}`` the fusion learns along to judge pairs
(`mmfm.objectives.matching`), so that the best by the embeddings can be ranked anew by it:
``rerank`` of the evaluation task ``retrieval``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mmfm.heads.base import CachedHeadObjective, Head, Known
from mmfm.model import Model
from mmfm.objectives.base import Objective
from mmfm.objectives.base.pairs import PairsConfig
from mmfm.objectives.contrastive import Contrastive
from mmfm.objectives.matching import Config as MatchingObjective
from mmfm.types import Batch, Features, LossTerms, Read

MATCHING = "matching"


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
class MatchingConfig:
    """`weight` of the matching loss beside the contrastive one; `temperature` of the draw of its
    negatives.
    """

    weight: float = 1.0
    temperature: float = 0.07


@dataclass(kw_only=True)
class Config(PairsConfig):
    """The settings of the contrastive objective; no labels are needed. `matching`: of the same
    pairs.
    """

    hard_negatives: HardNegativesConfig | None = None
    matching: MatchingConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.matching is not None:
            try:
                self.matching_objective()
            except ValueError as error:
                raise ValueError(f"matching: {error}") from None

    def matching_objective(self) -> MatchingObjective:
        assert self.matching is not None
        settings = self.matching
        return MatchingObjective(
            pairs=self.pairs, weight=settings.weight, temperature=settings.temperature
        )

    def build(self, model: Model, label_names: Sequence[str]) -> RetrievalHead:
        return RetrievalHead(self, model)


class RetrievalHead(Head):
    """The embeddings of each pair, learnt by InfoNCE over the global batch. The evaluation task
    ``retrieval`` judges them.
    """

    asked_by = "encode"

    def __init__(self, config: Config, model: Model) -> None:
        super().__init__()
        self.contrastive = Contrastive(config, model)
        self.reads: tuple[Read, ...] = self.contrastive.reads
        self.hard_negatives = config.hard_negatives
        # The task owns it: it is an objective of its own.
        self._beside: dict[str, tuple[Objective, float]] = {}
        if config.matching is not None:
            judging = config.matching_objective()
            self._beside[MATCHING] = (judging.build(model), judging.weight)

    def beside(self) -> dict[str, tuple[Objective, float]]:
        return self._beside

    def known_before(self) -> Mapping[str, Known]:
        """How pairs are judged, whatever pairs these were."""
        return {name: Known(objective, {}) for name, (objective, _) in self._beside.items()}

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
