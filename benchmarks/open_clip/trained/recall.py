"""Recall at 1 and 5 in both directions by mmfm's metrics, with paired differences, as a table.

A drawing finds its title among all held-out titles, each there once; a title finds any of its
drawings among all held-out drawings. The intervals are bootstrapped over the queries, equal titles
drawn together; all rows of a column see the same resamples, so a difference is one of paired
queries. They don't hold how much a run differs from one of another seed: several seeds show that.
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


@dataclass
class Ranked:
    """The ranks that one side gives the queries of a direction, and the `groups` of these."""

    ranks: ranking.Ranks
    groups: NDArray[np.int64]


@dataclass
class Compared:
    """Each side's ranks, by direction, of the same held-out pairs."""

    untrained: dict[str, Ranked]
    open_clip: dict[str, Ranked]
    mmfm: dict[str, Ranked]


def ranked(pairs: Pairs, groups: NDArray[np.int64]) -> dict[str, Ranked]:
    """By direction; `groups` [n] of the pairs."""
    _, first = np.unique(groups, return_index=True)
    images, titles = (pairs.image, groups), (pairs.text[first], groups[first])
    return {
        direction: Ranked(
            ranking.first_relevant_ranks(query, gallery, query_groups, gallery_groups), query_groups
        )
        for direction, ((query, query_groups), (gallery, gallery_groups)) in zip(
            DIRECTIONS, ((images, titles), (titles, images)), strict=True
        )
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
        ranks = one.mmfm[direction].ranks
        level = ranking.chance_level(ranks.relevant, ranks.candidates, AT)
        found.append(f"{100 * level.recall[k]:.2f}")
    return found


def rows(those: list[Compared]) -> dict[str, list[str]]:
    """The cells of each row, of the mean over `those`."""
    cells: dict[str, list[str]] = {name: [] for name in (*SIDES, DIFFERENCE)}
    for direction, k in COLUMNS:
        hits = {
            side: np.mean([getattr(one, side)[direction].ranks.rank <= k for one in those], axis=0)
            for side in SIDES
        }
        # A share has an interval where all queries agree, too; the mean over seeds is none.
        share = len(those) == 1
        statistics: dict[str, bootstrap.Statistic] = {
            side: bootstrap.Share(found > 0) if share else bootstrap.mean(found)
            for side, found in hits.items()
        }
        statistics[DIFFERENCE] = bootstrap.mean(hits["mmfm"] - hits["open_clip"])
        estimates = bootstrap.estimate(statistics, those[0].mmfm[direction].groups)
        for name, estimate in estimates.items():
            cells[name].append(shown(estimate))
    return cells


def shown(estimate: bootstrap.Estimate) -> str:
    low, high = estimate.ci95
    return f"{100 * estimate.value:.1f} ({100 * low:.1f} to {100 * high:.1f})"
