"""Scores as people read them: names, percentages, and a plain verdict. Shared by the terminal and
the page.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mmfm_eval.tasks.base import Score

_NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "ece": "calibration error",
    "median_rank": "median rank",
    "entity_f1": "entity F1",
    "micro_f1": "micro F1",
    "all_right": "all labels right",
    "absolute_error": "mean absolute error",
    "r2": "R²",
}
_PLAIN = ("MRR", "r2", "rank_correlation")
_LOWER_IS_BETTER = ("median_rank", "ece", "loss", "error")


@dataclass(frozen=True)
class Row:
    """One score ready to be shown; positions run from 0 (left) to 100 on the row's axis."""

    direction: str
    metric: str
    value: str
    interval: str
    chance: str
    baseline: str
    baseline_name: str
    n: str
    verdict: str
    good: bool
    lower_is_better: bool
    at: float
    low: float | None
    high: float | None
    chance_at: float | None
    baseline_at: float | None


def rows(scores: list[Score]) -> list[Row]:
    """The rows of one task. Shares lie on 0..100 %, ranks on a logarithmic axis that all ranks of
    the task share, a loss on an axis of its own from 0 to the largest number of that name.
    """
    ranks = [
        x
        for s in scores
        if is_rank(s.name)
        for x in (s.value, s.chance, s.baseline, *(s.ci95 or ()))
        if x is not None
    ]
    tops: dict[str, float] = {}
    for s in scores:
        tops[s.name] = max([tops.get(s.name, 0.0), *_numbers(s)])
    return [_row(s, max(ranks, default=1.0), tops[s.name]) for s in scores]


def _numbers(s: Score) -> list[float]:
    return [x for x in (s.value, s.chance, s.baseline, *(s.ci95 or ())) if x is not None]


def is_rank(name: str) -> bool:
    return name.endswith("median_rank")


def is_loss(name: str) -> bool:
    """Whether it is a number from 0 on without an upper end."""
    return name.endswith(("loss", "error"))


def lower_is_better(name: str) -> bool:
    """What a loss gains by something (``added_loss``: without it) is the better the more it is."""
    return name.endswith(_LOWER_IS_BETTER) and not name.endswith("added_loss")


def _row(s: Score, longest: float, largest: float) -> Row:
    rank = is_rank(s.name)
    top = largest * 1.05 if is_loss(s.name) else 1.0
    direction, metric = split_name(s.name)

    def show(x: float | None) -> str:
        return "–" if x is None else number(x, s.name)

    def place(x: float | None) -> float | None:
        if x is None:
            return None
        share = math.log(max(x, 1)) / math.log(max(longest, 2)) if rank else x / (top or 1.0)
        return round(100 * min(max(share, 0.0), 1.0), 2)

    low, high = s.ci95 or (None, None)
    verdict, good = judge(s)
    at = place(s.value)
    assert at is not None
    return Row(
        direction=direction,
        metric=metric,
        value=show(s.value),
        interval=_interval(s.ci95, s.name),
        chance=show(s.chance),
        baseline=show(s.baseline),
        baseline_name=s.baseline_name or "",
        n=f"{s.n:,}",
        verdict=verdict,
        good=good,
        lower_is_better=lower_is_better(s.name),
        at=at,
        low=place(low),
        high=place(high),
        chance_at=place(s.chance),
        baseline_at=place(s.baseline),
    )


def split_name(name: str) -> tuple[str, str]:
    """``image_to_text_median_rank`` ▶ ("image ▶ text", "median rank"); without a direction it is
    empty.
    """
    for ending in ("median_rank", "MRR", "R@10", "R@1", "R@5"):
        if name.endswith(f"_{ending}"):
            direction = name[: -len(ending) - 1].replace("_to_", " ▶ ")
            return direction, _NAMES.get(ending, ending)
    return "", _NAMES.get(name, name.replace("_", " "))


def judge(s: Score) -> tuple[str, bool]:
    """What the interval says about chance and baseline, and whether that is good news."""
    if s.ci95 is None or (s.chance is None and s.baseline is None):
        return "", True
    sign = -1 if lower_is_better(s.name) else 1
    worst, best = sorted(sign * x for x in s.ci95)

    def against(other: float, what: str) -> tuple[str, bool]:
        if worst > sign * other:
            return f"beats {what}", True
        if best < sign * other:
            return f"worse than {what}", False
        return f"no clear difference to {what}", False

    if s.chance is not None:
        verdict, good = against(s.chance, "chance")
        if not good or s.baseline is None:
            return verdict, good
    assert s.baseline is not None
    verdict, good = against(s.baseline, "the baseline")
    if good and s.chance is not None:
        return "beats chance and baseline", True
    return verdict, good


def _interval(ci95: tuple[float, float] | None, name: str) -> str:
    if ci95 is None:
        return ""
    low, high = (number(x, name) for x in ci95)
    return f"{low.removesuffix(' %')} – {high}"


def number(x: float, name: str) -> str:
    """A value of the metric `name`, as people read it."""
    if is_loss(name) or name.endswith(_PLAIN) or name.startswith(("NDCG@", "MRR@")):
        return f"{x:.3f}"
    if is_rank(name):
        return f"{x:,.0f}" if x == int(x) or x >= 100 else f"{x:.1f}"
    return percent(x)


def percent(share: float) -> str:
    """``0.6021`` ▶ "60.2 %"; below 1 % two digits."""
    value = 100 * share
    return f"{value:.2f} %" if 0 < value < 1 else f"{value:.1f} %"
