"""Recall at 1 and 5 in both directions by mmfm's metrics, with paired differences, as a table.

A drawing finds its title by rank among all held-out titles, and the other way round; a title that
stands there twice is found by either. The intervals are bootstrapped over the queries, equal titles
drawn together; all rows of a seed see the same resamples, so a difference is one of paired queries.
They don't hold how much a run differs from one of another seed: several seeds show that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.open_clip.trained.embedded import Pairs
from mmfm_eval.metrics import bootstrap, ranking

AT = (1, 5)
DIRECTIONS = ("image ▶ text", "text ▶ image")
COLUMNS = [(direction, k) for direction in DIRECTIONS for k in AT]
SIDES = ("untrained", "open_clip", "mmfm")
DIFFERENCE = "mmfm − open_clip"
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
    lines = [
        "| | seed | " + " | ".join(f"{direction}, R@{k}" for direction, k in COLUMNS) + " |",
        "| --- | --- |" + " --- |" * len(COLUMNS),
        f"| chance | | {' | '.join(chance(compared[0]))} |",
    ]
    parts = [(str(seed), [one]) for seed, one in zip(seeds, compared, strict=True)]
    if len(seeds) > 1:
        parts.append(("mean", compared))
    for seed, those in parts:
        for name, cells in rows(those).items():
            lines.append(f"| {name} | {seed} | {' | '.join(cells)} |")
    return "\n".join(lines)


def chance(one: Compared) -> list[str]:
    found = []
    for direction, k in COLUMNS:
        ranks = one.mmfm[direction]
        level = ranking.chance_level(ranks.relevant, ranks.candidates, AT)
        found.append(f"{100 * level.recall[k]:.2f}")
    return found


def rows(those: list[Compared]) -> dict[str, list[str]]:
    """The cells of each row, of the mean over `those`."""
    hits = {
        (side, column): np.mean([hit(getattr(one, side), *column) for one in those], axis=0)
        for side in SIDES
        for column in COLUMNS
    }
    # A share has an interval where all queries agree, too; the mean over seeds is none.
    share = len(those) == 1
    statistics: dict[str, bootstrap.Statistic] = {
        f"{side}{column}": bootstrap.Share(found > 0) if share else bootstrap.mean(found)
        for (side, column), found in hits.items()
    }
    for column in COLUMNS:
        difference = hits["mmfm", column] - hits["open_clip", column]
        statistics[f"{DIFFERENCE}{column}"] = bootstrap.mean(difference)
    found = bootstrap.estimate(statistics, those[0].groups)
    return {
        name: [shown(found[f"{name}{column}"]) for column in COLUMNS]
        for name in (*SIDES, DIFFERENCE)
    }


def hit(by_direction: dict[str, ranking.Ranks], direction: str, k: int) -> Hits:
    """[n]: 1 where the query's first relevant item is among the first k."""
    return (by_direction[direction].rank <= k).astype(np.float64)


def shown(estimate: bootstrap.Estimate) -> str:
    low, high = estimate.ci95
    return f"{100 * estimate.value:.1f} ({100 * low:.1f} to {100 * high:.1f})"
