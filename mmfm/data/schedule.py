"""Which stratum each slot draws from: integer weights, and a tabulated round robin over them.

`quantise(shares)` turns exact shares into integers over one denominator of at most
`MAX_DENOMINATOR`; `RoundRobin(weights)` answers which stratum a slot draws from and how often any
stratum was drawn before a slot, for any slot, by look-up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

MAX_DENOMINATOR = 10_000


def quantise(shares: Sequence[Fraction]) -> list[int]:
    """Integer weights in proportion to `shares` (positive): at least 1, at most 10,000 together.

    The proportions are exact where a denominator of at most 10,000 allows it. Otherwise the sum is
    10,000, each share is rounded down, and the remainder goes to those that lost most.
    """
    if len(shares) > MAX_DENOMINATOR:
        raise ValueError(f"{len(shares)} strata: at most {MAX_DENOMINATOR} can share one schedule")
    total = sum(shares, Fraction(0))
    shares = [s / total for s in shares]
    denominator = 1
    for share in shares:
        denominator = math.lcm(denominator, share.denominator)
        if denominator > MAX_DENOMINATOR:
            break
    else:
        return [int(s * denominator) for s in shares]
    targets = [s * MAX_DENOMINATOR for s in shares]
    weights = [max(1, math.floor(t)) for t in targets]
    while (left := MAX_DENOMINATOR - sum(weights)) != 0:
        step = 1 if left > 0 else -1
        # Ties go to the first; a weight never falls below 1.
        able = [s for s in range(len(weights)) if step > 0 or weights[s] > 1]
        best = max(able, key=lambda s: (step * (targets[s] - weights[s]), -s))
        weights[best] += step
    divisor = math.gcd(*weights)
    return [w // divisor for w in weights]


class RoundRobin:
    """Smooth weighted round robin (as in nginx) over integer `weights`, tabulated for one period.

    In each period of sum(weights) slots stratum s has exactly ``weights[s]``, spread evenly.
    Memory: 12 bytes a slot of the period, 120 kB at most, whatever the number of strata.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        assert min(weights) > 0, weights
        self.weights = list(weights)
        self.period = sum(weights)
        step = np.asarray(weights, dtype=np.int64)
        current = np.zeros_like(step)
        self._stratum = np.empty(self.period, dtype=np.int32)
        for slot in range(self.period):
            current += step
            chosen = int(current.argmax())  # the first of equals
            current[chosen] -= self.period
            self._stratum[slot] = chosen
        # The slots of each stratum, one stratum after the other, and the start of each.
        self._slots = np.argsort(self._stratum, kind="stable").astype(np.int32)
        self._starts = np.concatenate([[0], np.cumsum(step)])
        self._before = np.empty(self.period, dtype=np.int32)
        self._before[self._slots] = np.arange(self.period) - np.repeat(self._starts[:-1], step)

    def at(self, slot: int) -> tuple[int, int]:
        """(stratum that `slot` draws from, its draws before `slot`)."""
        period, offset = divmod(slot, self.period)
        stratum = int(self._stratum[offset])
        return stratum, period * self.weights[stratum] + int(self._before[offset])

    def draws_before(self, stratum: int, slot: int) -> int:
        """How often `stratum` is drawn in the slots 0..slot-1."""
        period, offset = divmod(slot, self.period)
        slots = self._slots[self._starts[stratum] : self._starts[stratum + 1]]
        return period * self.weights[stratum] + int(slots.searchsorted(offset))
