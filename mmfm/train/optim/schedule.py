"""Learning-rate schedules as pure functions of the step, so that nothing about them has to be
saved.
"""

from __future__ import annotations

import math
from typing import Literal

ScheduleName = Literal["cosine", "constant", "wsd"]


def lr_factor(
    schedule: ScheduleName,
    step: int,
    max_steps: int,
    warmup_steps: int,
    final_factor: float,
    decay_steps: int = 0,
) -> float:
    """The factor on the base learning rate in `step` (from 0): linear warm-up, then the schedule.

    "cosine" falls to `final_factor` in the last step (Loshchilov and Hutter, arXiv:1608.03983).
    "wsd" (warm-up, stable, decay) stays until the last `decay_steps` steps, in which it falls to
    `final_factor` as 1 - sqrt, the best of the shapes that Hägele et al. compare
    (arXiv:2405.18392).
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    if schedule == "wsd":
        into = min(step + 1, max_steps) - (max_steps - decay_steps)
        falls = 1 - math.sqrt(into / decay_steps) if into > 0 else 1.0
    else:
        span = max(1, max_steps - 1 - warmup_steps)
        progress = min(1.0, (step - warmup_steps) / span)
        falls = 0.5 * (1 + math.cos(math.pi * progress))
    return final_factor + (1 - final_factor) * falls
