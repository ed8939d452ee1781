"""Alarms on a run's own numbers: a loss that jumps, a temperature at its limit or collapsing.

Each is told once when it begins, in the log and as ``{"event": "alarm", …}`` in metrics.jsonl; the
run goes on.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from mmfm.objectives.base.pairs import LogitScale
from mmfm.task import Task

FEWEST_STEPS = 20
"""Fewer losses say nothing about how much they vary."""
SMALLEST_STD = 0.01
"""As a share of the mean: a loss that hardly varies would cry at every move."""
AT_LIMIT = 0.999
FLAT = 1.0
"""Below this logit scale all similarities, which are at most 1, look the same to the softmax."""


@dataclass(kw_only=True)
class AlarmConfig:
    """A loss is a spike from `spike_sigmas` standard deviations above the mean of the last
    `spike_window` steps (0: never). Each objective counts with its whole weight, so that one that
    starts is none.
    """

    spike_sigmas: float = 6.0
    spike_window: int = 100

    def __post_init__(self) -> None:
        if self.spike_sigmas < 0:
            raise ValueError(f"spike_sigmas = {self.spike_sigmas} must not be negative")
        if self.spike_window < FEWEST_STEPS:
            raise ValueError(f"spike_window = {self.spike_window} must be at least {FEWEST_STEPS}")


class Alarm(NamedTuple):
    """`kind` and `name` stay the same while it lasts; `text` is for people."""

    kind: str
    name: str
    text: str


class Alarms:
    """``look`` at every step; it gives the alarms that begin with it."""

    def __init__(self, config: AlarmConfig, task: Task) -> None:
        self.config = config
        self._weights = task.whole_weights
        self._losses: deque[float] = deque(maxlen=config.spike_window)
        self._limits = logit_scale_limits(task)
        self._on: set[tuple[str, str]] = set()

    def look(self, losses: Mapping[str, float], scalars: Mapping[str, float]) -> list[Alarm]:
        """The step's `losses` by ``objective/term``; `scalars`: values of the objectives' own
        parameters by ``objective/name``.
        """
        loss = math.fsum(self._weights[n.split("/")[0]] * value for n, value in losses.items())
        now = [*self._spike(loss), *self._temperatures(scalars)]
        begins = [alarm for alarm in now if (alarm.kind, alarm.name) not in self._on]
        self._on = {(alarm.kind, alarm.name) for alarm in now}
        self._losses.append(loss)
        return begins

    def _spike(self, loss: float) -> Iterator[Alarm]:
        if not self.config.spike_sigmas or len(self._losses) < FEWEST_STEPS:
            return
        mean = statistics.fmean(self._losses)
        std = max(statistics.pstdev(self._losses, mean), SMALLEST_STD * abs(mean))
        if loss > mean + self.config.spike_sigmas * std:
            yield Alarm(
                "loss_spike",
                "loss",
                f"the loss jumps to {loss:.4g}; it was {mean:.4g} ± {std:.2g} in the last "
                f"{len(self._losses)} steps",
            )

    def _temperatures(self, scalars: Mapping[str, float]) -> Iterator[Alarm]:
        for name, limit in self._limits.items():
            value = scalars.get(name)
            if value is None:
                continue
            if value >= AT_LIMIT * limit:
                yield Alarm(
                    "logit_scale_at_limit",
                    name,
                    f"{name} stands at its limit {limit:g}: the temperature would go on falling "
                    "(a high learning rate, or pairs that are too easy)",
                )
            elif value < FLAT:
                yield Alarm(
                    "logit_scale_collapses",
                    name,
                    f"{name} has fallen to {value:.3g}: all similarities look the same",
                )


def logit_scale_limits(task: nn.Module) -> dict[str, float]:
    """``objective/logit_scale`` ▶ its limit, for every learned one in `task`."""
    limits = {}
    for name, module in task.named_modules():
        if isinstance(module, LogitScale) and module.log_scale.requires_grad:
            limits[f"{name.split('.')[1]}/logit_scale"] = math.exp(module.maximum)
    return limits
