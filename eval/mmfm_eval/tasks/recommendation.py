"""Which item came next, by a checkpoint with a recommendation head.

    type: recommendation
    source: viewers
    target: test

Leave-one-out by position: the last item of each history is `test`, the one before it `val`, and
training has seen what comes before those. All items are ranked but those that the user had earlier,
ties at their middle rank. The baselines learn from the same training part, and know of a user what
the model knows: all earlier items.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mmfm.config import ConfigError
from mmfm.next_item import Ranked, mid_ranks
from mmfm_eval.metrics import bootstrap, top_k
from mmfm_eval.metrics.recommenders import RECOMMENDERS, Recommender
from mmfm_eval.mistakes import Mistake, worst
from mmfm_eval.readings import Ints, Predictor, Reading
from mmfm_eval.tasks.base import Evaluator, Score

PLACES = {"test": 1, "val": 2}
BLOCK = 256


@dataclass(kw_only=True)
class Config:
    """`source` of the histories; `target`: the item that is asked for; the metrics look at the
    first `k` places. `baselines`: the best of them, by each metric, stands beside the score.
    """

    source: str
    target: Literal["val", "test"] = "test"
    k: int = 10
    baselines: list[Literal["popularity", "item_knn", "markov"]] = field(
        default_factory=lambda: ["popularity", "item_knn", "markov"]
    )

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k = {self.k}: at least one place is needed")

    def build(self) -> Recommendation:
        return Recommendation(self)


class Recommendation(Evaluator):
    """See the module's text."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._reading = Reading(config.source, place=PLACES[config.target])
        self._reached: dict[str, dict[str, float]] = {}
        self._names: list[str] = []

    @property
    def readings(self) -> tuple[Reading, ...]:
        return (self._reading,)

    def check_model(self, predictor: Predictor) -> None:
        held_out = getattr(predictor.head, "held_out", None)
        if held_out is None:
            raise ConfigError(
                "a recommendation task needs a checkpoint with a recommendation head: fine-tune "
                "one first (mmfm finetune)"
            )
        if held_out < PLACES[self.config.target]:
            raise ConfigError(
                f"target: {self.config.target} was trained on: the head holds the last {held_out} "
                f"items of a history out, and {PLACES[self.config.target]} are needed"
            )

        self._names = list(getattr(predictor.head, "item_ids", ()))

    def score(self, encoded: Mapping[Reading, Any]) -> Iterable[Score]:
        found: Ranked = encoded[self._reading]
        if not len(found.rank):
            raise ValueError(
                f"source {self.config.source!r}: no history is long enough to hold its "
                f"{self.config.target} item and one before it"
            )
        k = self.config.k
        self._reached = {
            name: top_k.values(self._baseline(name, found), k) for name in self.config.baselines
        }
        chance = top_k.chance(found.candidates, k)
        statistics = top_k.statistics(found.rank, k)
        estimates = bootstrap.estimate(statistics, found.groups, seed=self.seed)
        for metric, estimate in estimates.items():
            score = Score(metric, estimate.value, len(found.rank), estimate.ci95, chance[metric])
            if self._reached:
                best = max(self._reached, key=lambda name: self._reached[name][metric])
                score = score._replace(
                    baseline=self._reached[best][metric], baseline_name=best.replace("_", " ")
                )
            yield score

    def details(self, encoded: Mapping[Reading, Any]) -> dict[str, Any]:
        found: Ranked = encoded[self._reading]
        return {
            "protocol": {
                "split": "leave one out by position: the last item is test, the one before it val",
                "target": self.config.target,
                "held_out_of_training": found.held_out,
                "candidates": "all items but the user's earlier ones",
                "ties": "middle rank",
                "k": self.config.k,
            },
            "users": len(found.rank),
            "too_short": found.too_short,
            "items": found.items,
            "interactions_before_target": sum(len(h) - 1 for h in found.histories),
            "baselines": self._reached,
        }

    def mistakes(self, encoded: Mapping[Reading, Any], most: int) -> list[Mistake]:
        """The histories whose next item stands farthest behind."""
        found: Ranked = encoded[self._reading]
        return [
            Mistake(
                source=self.config.source,
                id=found.row_ids[i],
                right=f"{self._names[int(found.histories[i][-1])]} came next",
                said=f"rank {found.rank[i]:,.0f} of {found.candidates[i]:,}",
                wrong=float(found.rank[i] - 1),
            )
            for i in worst(found.rank - 1, most)
        ]

    def _baseline(self, name: str, found: Ranked) -> NDArray[np.float64]:
        """The ranks that a simple recommender gives to the same targets."""
        unseen = found.held_out - PLACES[self.config.target] + 1
        training = [h[: len(h) - unseen] for h in found.histories]
        recommender = RECOMMENDERS[name](training, found.items)
        blocks = range(0, len(found.histories), BLOCK)
        ranks = [_ranks(recommender, found.histories[i : i + BLOCK]) for i in blocks]
        return np.concatenate(ranks)


def _ranks(recommender: Recommender, histories: list[Ints]) -> NDArray[np.float64]:
    """The rank [n] of the last item of each history after what comes before it."""
    scores = recommender([h[:-1] for h in histories])
    length = max(map(len, histories))
    rows = torch.zeros(len(histories), length, dtype=torch.int64)
    before = torch.zeros(len(histories), length, dtype=torch.bool)
    for place, history in enumerate(histories):
        rows[place, : len(history)] = torch.from_numpy(history)
        before[place, : len(history) - 1] = True
    target = torch.tensor([int(h[-1]) for h in histories])
    rank, _ = mid_ranks(torch.from_numpy(scores), target, rows, before)
    return np.asarray(rank.numpy(), dtype=np.float64)
