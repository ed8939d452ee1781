"""What every evaluation task shares: scores, and the two steps `encode` (all ranks) and `score`
(rank 0).

An evaluator declares its readings; `encode` runs the model over them, collectively, and `score`
computes from plain numpy arrays. The same object runs offline (`mmfm eval`) and in the training
loop:

    evaluator = Config(...).build()
    scores = evaluator(predictor, {"animals": sequential_data})
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mmfm import distributed
from mmfm.config import ConfigError
from mmfm_eval.mistakes import Mistake
from mmfm_eval.readings import Encoded, Ints, Predictor, Reading, encode_readings

T = TypeVar("T")


class AgreedError(ValueError):
    """An error that every rank raises together, so that one of them may tell of it for all."""


class Score(NamedTuple):
    """One number with what is needed to judge it; shares are in 0..1, ranks count from 1.

    `n` queries or samples; `ci95` the bootstrap interval; `chance` what guessing gives, computed,
    not sampled; `baseline` what the simple method `baseline_name` reaches on the same rows.
    """

    name: str
    value: float
    n: int
    ci95: tuple[float, float] | None = None
    chance: float | None = None
    baseline: float | None = None
    baseline_name: str | None = None


class Findings(NamedTuple):
    """All that a task says of a model."""

    scores: list[Score]
    details: dict[str, Any]
    mistakes: list[Mistake]


def with_baseline(scores: Iterable[Score], reached: Iterable[Score], name: str) -> list[Score]:
    """`scores` with the values of `reached` (same metrics) as their baseline."""
    values = {s.name: s.value for s in reached}
    return [
        s._replace(baseline=values[s.name], baseline_name=name) if s.name in values else s
        for s in scores
    ]


@dataclass(frozen=True)
class Rows:
    """Features [n,D] of one modality of one source with the rows' ids, groups and labels (negative:
    none).
    """

    x: NDArray[Any]
    ids: list[str]
    groups: Ints
    labels: Ints

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, which: NDArray[Any]) -> Rows:
        """The rows at the positions `which`, or where the bool array `which` is True."""
        at = np.flatnonzero(which) if which.dtype == bool else which
        return Rows(self.x[at], [self.ids[i] for i in at], self.groups[at], self.labels[at])


class Evaluator(ABC):
    """A task over sources; `readings` are what `encode` runs, the same on every rank."""

    baseline: str = "none"
    """The method whose scores stand beside the model's; the runner computes those that `score`
    can't.
    """

    seed: int = 0
    """Draws the bootstrap resamples, and whatever else a task draws."""

    @property
    @abstractmethod
    def readings(self) -> tuple[Reading, ...]:
        """What the task reads, without repetition."""

    @abstractmethod
    def score(self, encoded: Mapping[Reading, Any]) -> Iterable[Score]:
        """The scores, from the results of all `readings`. Runs on one rank."""

    def details(self, encoded: Mapping[Reading, Any]) -> dict[str, Any]:
        """Plain JSON beside the scores: counts of rows, tables per class."""
        return {}

    def mistakes(self, encoded: Mapping[Reading, Any], most: int) -> list[Mistake]:
        """The `most` worst mistakes, the worst first. Runs on one rank."""
        return []

    def check_sources(self, sources: Iterable[str]) -> None:
        """ConfigError where the task reads a source that is not among `sources`."""
        sources = list(sources)
        for reading in self.readings:
            if reading.source not in sources:
                near = difflib.get_close_matches(reading.source, sources, n=1, cutoff=0.4)
                hint = f" did you mean {near[0]!r}?" if near else ""
                raise ConfigError(
                    f"there is no source {reading.source!r};{hint} Valid: {', '.join(sources)}"
                )

    def check_model(self, predictor: Predictor) -> None:
        """ConfigError where the model can't do the task."""
        for reading in self.readings:
            for modality in reading.modalities:
                if modality not in predictor.specs:
                    raise ConfigError(
                        f"the checkpoint has no encoder for {modality!r}; "
                        f"it has {', '.join(predictor.specs)}"
                    )

    def encode(self, predictor: Predictor, data: Mapping[str, Any]) -> dict[Reading, Any]:
        """Run the model over every reading. Collective: all ranks call it with the same sources."""
        self.check_sources(data)
        self.check_model(predictor)
        return encode_readings(predictor, data, self.readings)

    def __call__(self, predictor: Predictor, data: Mapping[str, Any]) -> list[Score]:
        """Encode on all ranks, score on rank 0, and return the scores on every rank."""
        encoded = self.encode(predictor, data)
        return on_main(lambda: list(self.score(encoded)))

    def examine(self, predictor: Predictor, data: Mapping[str, Any], mistakes: int) -> Findings:
        """The same, with the details and so many `mistakes`."""
        encoded = self.encode(predictor, data)
        return on_main(
            lambda: Findings(
                list(self.score(encoded)),
                self.details(encoded),
                self.mistakes(encoded, mistakes) if mistakes else [],
            )
        )


def on_main(compute: Callable[[], T]) -> T:
    """The result of `compute()` on rank 0, on every rank; a ValueError there is raised on every
    rank.
    """
    outcome: tuple[Any, str | None] = (None, None)
    if distributed.is_main():
        try:
            outcome = (compute(), None)
        except (ValueError, OSError) as error:
            outcome = (None, str(error))
    result, problem = distributed.broadcast_object(outcome)
    if problem is not None:
        raise AgreedError(problem)
    return result  # type: ignore[no-any-return]


def rows_of(encoded: Encoded, reading: Reading, modality: str, features: str = "embedding") -> Rows:
    """The rows of `modality` (or "fused") in what `reading` gave; `features` is "embedding" or
    "pooled".

    Fused rows are those of samples that have all modalities of the reading.
    """
    table: dict[str, NDArray[Any]] = getattr(encoded, features)
    if modality not in table or len(table[modality]) == 0:
        raise ValueError(f"source {reading.source!r} has no sample with {modality!r}")
    labels = encoded.labels.get(modality)
    groups = np.asarray(encoded.groups[modality], dtype=np.int64)
    rows = Rows(
        np.asarray(table[modality], dtype=np.float32),
        list(encoded.row_ids[modality]),
        groups,
        np.full(len(groups), -1) if labels is None else np.asarray(labels, dtype=np.int64),
    )
    if modality != "fused":
        return rows
    complete = set.intersection(*(set(encoded.row_ids.get(m, ())) for m in reading.modalities))
    rows = rows.take(np.array([i in complete for i in rows.ids], dtype=bool))
    if not len(rows):
        raise ValueError(
            f"source {reading.source!r} has no sample with all of {', '.join(reading.modalities)}"
        )
    return rows


def same_row(of: Rows, among: Rows) -> Ints:
    """For each row of `of` the position of the same sample in `among`, -1 where it isn't there."""
    position = {name: i for i, name in enumerate(among.ids)}
    return np.array([position.get(name, -1) for name in of.ids], dtype=np.int64)
