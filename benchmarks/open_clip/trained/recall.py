"""Recall at 1 and 5 in both directions by mmfm's metrics, with paired differences, as a table.

A drawing finds its title by rank among all held-out titles, and the other way round; a title that
stands there twice is found by either. The intervals are bootstrapped over the queries, equal titles
drawn together; all rows of a seed see the same resamples, so a difference is one of paired queries.
They don't hold how much a run differs from one of another seed: several seeds show that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.open_clip.trained.embedded import Pairs
from mmfm_eval.metrics import bootstrap, ranking

AT = (1, 5)
DIRECTIONS = ("image ▶ text", "text ▶ image")
Hits = NDArray[np.float64]


@dataclass
class Compared:
    """The ranks by direction that each gives the same held-out pairs; `groups` [n] of these."""

    groups: NDArray[np.int64]
    untrained: dict[str, ranking.Ranks]
    open_clip: dict[str, ranking.Ranks]
    mmfm: dict[str, ranking.Ranks]


def ranks(pairs: Pairs, groups: NDArray[np.int64]) -> dict[str, ranking.Ranks]:
    """direction ▶ the rank of each query's title or drawing."""
    sides = ((pairs.image, pairs.text), (pairs.text, pairs.image))
    return {
        direction: ranking.first_relevant_ranks(query, gallery, groups, groups)
        for direction, (query, gallery) in zip(DIRECTIONS, sides, strict=True)
    }


def table(seeds: list[int], compared: list[Compared]) -> str:
    """In markdown, in percent. With several seeds also the mean over them, query by query."""
    first = compared[0]
    columns = [(direction, k) for direction in DIRECTIONS for k in AT]
    lines = [
        "| | seed | " + " | ".join(f"{direction}, R@{k}" for direction, k in columns) + " |",
        "| --- | --- |" + " --- |" * len(columns),
    ]
    chance = []
    for direction, k in columns:
        found = first.untrained[direction]
        level = ranking.chance_level(found.relevant, found.candidates, AT)
        chance.append(f"{100 * level.recall[k]:.2f}")
    lines.append("| chance | | " + " | ".join(chance) + " |")
    named: list[tuple[str, Callable[[Compared, str, int], Hits]]] = [
        ("untrained", lambda c, d, k: hits(c.untrained, d, k)),
        ("open_clip", lambda c, d, k: hits(c.open_clip, d, k)),
        ("mmfm", lambda c, d, k: hits(c.mmfm, d, k)),
        ("mmfm − open_clip", lambda c, d, k: hits(c.mmfm, d, k) - hits(c.open_clip, d, k)),
    ]
    parts = [(str(seed), [one]) for seed, one in zip(seeds, compared, strict=True)]
    if len(seeds) > 1:
        parts.append(("mean", compared))
    for seed, those in parts:
        for name, of in named:
            values = {
                f"{d}{k}": statistic(np.mean([of(one, d, k) for one in those], axis=0))
                for d, k in columns
            }
            found = bootstrap.estimate(values, first.groups)
            cells = " | ".join(shown(found[f"{d}{k}"]) for d, k in columns)
            lines.append(f"| {name} | {seed} | {cells} |")
    return "\n".join(lines)


def hits(by_direction: dict[str, ranking.Ranks], direction: str, k: int) -> Hits:
    """[n]: 1 where the query's first relevant item is among the first k."""
    return (by_direction[direction].rank <= k).astype(np.float64)


def statistic(values: Hits) -> bootstrap.Statistic:
    """Their mean; as a share where it is one, which has an interval where all of them agree."""
    is_share = bool(np.isin(values, (0, 1)).all())
    return bootstrap.Share(values == 1) if is_share else bootstrap.mean(values)


def shown(estimate: bootstrap.Estimate) -> str:
    low, high = estimate.ci95
    return f"{100 * estimate.value:.1f} ({100 * low:.1f} to {100 * high:.1f})"
