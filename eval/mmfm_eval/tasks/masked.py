"""What a pretrained model predicts of hidden words and patches, with all that a sample has and with
less.

    type: masked
    source: unseen_pairs
    train: pairs

Mean loss of each masked objective over the masked positions of `source` (nats for words, squared
error for patches, as trained), and for words the share that is right. Each is also asked for the
same positions without some of the other modalities (``_without_image_loss``, ``_alone_loss``: the
modality itself only); ``_added_loss`` is the difference that this makes, sample by sample. It is
the same model every time: one that was trained without the modality might do better.

The baselines look at no context. They come from the evaluation texts (the first of each sample) and
patches of `train`: for words their frequencies (add one), for patches the mean at each grid
position.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfm.config import ConfigError
from mmfm.masked_losses import Context, MaskedLosses
from mmfm.task import PretrainTask
from mmfm_eval.metrics import bootstrap
from mmfm_eval.readings import OwnPass, Predictor, Reading
from mmfm_eval.tasks import _masked_baselines as baselines
from mmfm_eval.tasks.base import Evaluator, Score


@dataclass(kw_only=True)
class Config:
    """`objectives`: names in the recipe, none named: all that mask. `without`: the sets of
    modalities to take away; null: each one by itself, and all but the objective's own.
    """

    source: str
    train: str
    objectives: list[str] | None = None
    without: list[list[str]] | None = None

    def __post_init__(self) -> None:
        if self.objectives is not None and not self.objectives:
            raise ValueError("objectives is empty: name one, or leave it out for all")
        if self.without is not None and not all(self.without):
            raise ValueError("without holds an empty set: everything is judged anyway")

    def build(self) -> Masked:
        return Masked(self)


@dataclass(frozen=True)
class Found:
    """What a pass gives of one objective: its losses, its own modality, and the loss of a uniform
    guess where there is one.
    """

    losses: MaskedLosses
    modality: str
    chance: float | None
    baseline_name: str

    def contexts(self) -> dict[str, Context]:
        """Label ▶ context; without repetition of those that differ only in what no sample has."""
        there = {m for m, has in self.losses.has.items() if has.any()} - {self.modality}
        found: dict[str, Context] = {}
        for context in self.losses.loss:
            gone = [m for m in context if m in there]
            if gone or not context:
                label = "alone" if set(gone) == there else f"without_{'+'.join(gone)}"
                found.setdefault(label if gone else "", context)
        return found


@dataclass(frozen=True)
class MaskedReading(OwnPass):
    """The losses of `objectives` on `source` (none: all) with the baselines of `train`."""

    train: str = ""
    objectives: tuple[str, ...] | None = None
    without: tuple[Context, ...] | None = None

    def __str__(self) -> str:
        return f"{self.train} and {self.source}, {' + '.join(self.objectives or ('masked',))}"

    def run(self, predictor: Any, data: Mapping[str, Any]) -> dict[str, Found]:
        masked = predictor.task.masked
        names = list(masked) if self.objectives is None else list(self.objectives)
        fitted = baselines.fit(predictor, data[self.train], names)
        contexts = self._contexts(predictor, names)
        losses = predictor.masked_losses_batches(data[self.source], fitted, contexts)
        return {
            name: Found(losses[name], masked[name].modality, fitted[name].chance, fitted[name].name)
            for name in names
        }

    def _contexts(self, predictor: Any, names: list[str]) -> list[Context]:
        if self.without is not None:
            return list(self.without)
        modalities = list(predictor.model.encoders)
        own = {predictor.task.masked[name].modality for name in names}
        single = [(m,) for m in modalities]
        alone = [tuple(m for m in modalities if m != one) for one in modalities if one in own]
        return [c for c in dict.fromkeys(single + alone) if c]


class Masked(Evaluator):
    """See the module's text."""

    def __init__(self, config: Config) -> None:
        self.config = config
        without = config.without
        self._reading = MaskedReading(
            config.source,
            train=config.train,
            objectives=None if config.objectives is None else tuple(config.objectives),
            without=None if without is None else tuple(tuple(sorted(c)) for c in without),
        )

    @property
    def readings(self) -> tuple[Reading, ...]:
        return (self._reading,)

    def check_sources(self, sources: Iterable[str]) -> None:
        sources = list(sources)
        super().check_sources(sources)
        if self.config.train not in sources:
            raise ConfigError(
                f"there is no source {self.config.train!r}; valid: {', '.join(sources)}"
            )

    def check_model(self, predictor: Predictor) -> None:
        task = getattr(predictor, "task", None)
        masked = task.masked if isinstance(task, PretrainTask) else {}
        if not masked:
            raise ConfigError(
                "a masked task needs a pretrained checkpoint with a masked objective; this has none"
            )
        for name in self.config.objectives or ():
            if name not in masked:
                raise ConfigError(
                    f"objectives: the checkpoint has no masked objective {name!r}; "
                    f"it has {', '.join(masked)}"
                )
        for modality in {m for context in self.config.without or () for m in context}:
            if modality not in predictor.specs:
                raise ConfigError(
                    f"without: the checkpoint has no modality {modality!r}; "
                    f"it has {', '.join(predictor.specs)}"
                )

    def score(self, encoded: Mapping[Reading, Any]) -> Iterable[Score]:
        for name, found in encoded[self._reading].items():
            if not found.losses.count.sum():
                raise ValueError(
                    f"source {self.config.source!r} has nothing that {name} could mask; leave it "
                    "out of objectives"
                )
            yield from self._scores(name, found)

    def _scores(self, name: str, found: Found) -> Iterator[Score]:
        losses = found.losses
        n = int(losses.count.sum())
        statistics: dict[str, bootstrap.Statistic] = {}
        for suffix, context in found.contexts().items():
            loss, label = losses.loss[context], f"{name}_{suffix}".rstrip("_")
            statistics[f"{label}_loss"] = ratio(loss, losses.count)
            if context in losses.correct:
                statistics[f"{label}_accuracy"] = ratio(losses.correct[context], losses.count)
            if context:
                added = loss.astype(np.float64) - losses.loss[()]
                statistics[f"{label}_added_loss"] = ratio(added, losses.count)
        of_baseline = {"loss": losses.baseline_loss, "accuracy": losses.baseline_correct}
        for metric, estimate in bootstrap.estimate(
            statistics, losses.groups, seed=self.seed
        ).items():
            score = Score(metric, estimate.value, n, estimate.ci95)
            kind = metric.rsplit("_", 1)[1]
            if not metric.endswith("added_loss"):
                sums = of_baseline[kind]
                assert sums is not None
                score = score._replace(
                    baseline=float(sums.sum(dtype=np.float64) / n),
                    baseline_name=found.baseline_name,
                )
                if found.chance is not None:
                    by_chance = found.chance if kind == "loss" else math.exp(-found.chance)
                    score = score._replace(chance=by_chance)
            yield score

    def details(self, encoded: Mapping[Reading, Any]) -> dict[str, Any]:
        return {
            name: {
                "samples": len(found.losses.row_ids),
                "masked_positions": int(found.losses.count.sum()),
                "contexts": [label or "all" for label in found.contexts()],
                "masks": "from the hash of each sample's id, the same for every context",
            }
            for name, found in encoded[self._reading].items()
        }


def ratio(sums: NDArray[Any], counts: NDArray[Any]) -> bootstrap.Statistic:
    """The statistic "mean over the positions of all rows", from each row's sum and count [n]."""
    total, count = np.asarray(sums, np.float64), np.asarray(counts, np.float64)

    def statistic(weights: bootstrap.Floats) -> bootstrap.Floats:
        mean: bootstrap.Floats = (weights @ total) / (weights @ count)
        return mean

    return statistic
