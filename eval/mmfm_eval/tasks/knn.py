"""Classification by the nearest neighbours of frozen features.

    type: knn
    train: art
    test: unseen_art
    modality: image
    label: category

Cosine on the embedding or, with `features: pooled`, on the encoder's pooled output. Where the same
sample stands in both sources it does not vote for itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmfm_eval.metrics import neighbours
from mmfm_eval.readings import Ints
from mmfm_eval.tasks._labelled import LabelledConfig, LabelledEvaluator
from mmfm_eval.tasks.base import Rows, same_row


@dataclass(kw_only=True)
class Config(LabelledConfig):
    """Settings of a kNN task: `k` neighbours vote with weight exp(cosine / `temperature`), or
    equally (null).
    """

    k: int = 20
    temperature: float | None = 0.07

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1:
            raise ValueError(f"k = {self.k}: at least one neighbour is needed")
        if self.temperature is not None and self.temperature <= 0:
            raise ValueError(f"temperature = {self.temperature}: it must be positive, or null")

    def build(self) -> Knn:
        return Knn(self)


class Knn(LabelledEvaluator):
    """See the module's text."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def predict(self, train: Rows, test: Rows) -> Ints:
        excluded = same_row(test, train)
        available = len(train) - int((excluded >= 0).any())
        if available < self.config.k:
            raise ValueError(
                f"k = {self.config.k} neighbours, but source {self.config.train!r} has "
                f"{available} samples that may vote"
            )
        return neighbours.vote(
            train.x,
            train.labels,
            test.x,
            k=self.config.k,
            temperature=self.config.temperature,
            excluded=excluded,
        )
