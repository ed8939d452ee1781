"""A logistic regression on frozen features.

    type: linear_probe
    train: art
    test: unseen_art
    modality: image
    label: category

Features are standardised with the mean and deviation of `train`. The strength C is chosen on a part
of `train` that is held out by group; the probe is then fitted on all of `train`. Nothing is chosen
on `test`, and no sample may be in both.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mmfm_eval.readings import Ints, Reading
from mmfm_eval.tasks._labelled import LabelledConfig, LabelledEvaluator
from mmfm_eval.tasks.base import Rows, Score, same_row


@dataclass(kw_only=True)
class Config(LabelledConfig):
    """Settings of a linear probe: the values of `strengths` (C) to choose from, on the share
    `held_out` of `train`.
    """

    strengths: list[float] = field(default_factory=lambda: [1e-3, 1e-2, 1e-1, 1.0, 10.0])
    held_out: float = 0.2
    max_iterations: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strengths or min(self.strengths) <= 0:
            raise ValueError(f"strengths = {self.strengths}: name at least one, all positive")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out = {self.held_out}: a share between 0 and 1 is needed")

    def build(self) -> LinearProbe:
        return LinearProbe(self)


class LinearProbe(LabelledEvaluator):
    """See the module's text."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config
        self._chosen: dict[str, Any] = {}

    def score(self, encoded: Mapping[Reading, Any]) -> Iterable[Score]:
        self._chosen = {}
        return super().score(encoded)

    def details(self, encoded: Mapping[Reading, Any]) -> dict[str, Any]:
        return {**super().details(encoded), **self._chosen}

    def predict(self, train: Rows, test: Rows) -> Ints:
        if (same_row(test, train) >= 0).any():
            raise ValueError(
                f"sources {self.config.train!r} and {self.config.test!r} share samples: "
                "a linear probe would be judged on what it was fitted to"
            )
        if len(np.unique(train.labels)) < 2:
            raise ValueError(
                f"source {self.config.train!r} has one label only: nothing to tell apart"
            )
        strength = self._choose(train)
        model, scaler, iterations = self._fit(train.x, train.labels, strength)
        self._chosen = {"C": strength, "iterations": iterations}
        return np.asarray(model.predict(scaler.transform(test.x)), dtype=np.int64)

    def _choose(self, train: Rows) -> float:
        """The C with the best accuracy on groups held out from `train`; the strongest
        regularisation of several.
        """
        groups = np.unique(train.groups)
        rng = np.random.default_rng(self.seed)
        count = max(1, round(self.config.held_out * len(groups)))
        judged = np.isin(train.groups, rng.permutation(groups)[:count])
        fitted, held = train.take(~judged), train.take(judged)
        if not len(fitted) or len(np.unique(fitted.labels)) < 2:
            raise ValueError(
                f"source {self.config.train!r} has {len(groups)} groups: too few to hold some "
                "out and still see two labels"
            )
        best, chosen = -1.0, self.config.strengths[0]
        for strength in sorted(self.config.strengths):
            model, scaler, _ = self._fit(fitted.x, fitted.labels, strength)
            reached = float(np.mean(model.predict(scaler.transform(held.x)) == held.labels))
            if reached > best:
                best, chosen = reached, strength
        return chosen

    def _fit(
        self, x: NDArray[Any], labels: Ints, strength: float
    ) -> tuple[LogisticRegression, StandardScaler, int]:
        scaler = StandardScaler().fit(x.astype(np.float64))
        model = LogisticRegression(C=strength, max_iter=self.config.max_iterations)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ConvergenceWarning
            )  # told by `iterations` in the details
            model.fit(scaler.transform(x), labels)
        return model, scaler, int(np.max(model.n_iter_))
