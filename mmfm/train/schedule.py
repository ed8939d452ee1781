"""Learning-rate schedules as pure functions of the step, so that nothing about them has to be
saved.
"""

from __future__ import annotations

import math
from typing import Literal

ScheduleName = Literal["cosine", "constant"]


def lr_factor(
    schedule: ScheduleName, step: int, max_steps: int, warmup_steps: int, final_factor: float
) -> float:
    """The factor on the base learning rate in `step` (from 0): linear warm-up, then the schedule.

    "cosine" falls to `final_factor` in the last step (Loshchilov and Hutter, arXiv:1608.03983).
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    span = max(1, max_steps - 1 - warmup_steps)
    progress = min(1.0, (step - warmup_steps) / span)
    return final_factor + (1 - final_factor) * 0.5 * (1 + math.cos(math.pi * progress))
