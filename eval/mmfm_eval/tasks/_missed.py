"""Queries whose answer stands far behind in the gallery, with what came first instead."""

from __future__ import annotations

import numpy as np

from mmfm_eval.metrics import ranking
from mmfm_eval.mistakes import Mistake, worst
from mmfm_eval.readings import Ints
from mmfm_eval.tasks.base import Rows


def missed(
    queries: Rows, gallery: Rows, excluded: Ints | None, sources: tuple[str, str], most: int
) -> list[Mistake]:
    """At most so many, the farthest behind first. `excluded` [n]: the row of the gallery that is no
    candidate for a query; `sources`: those of queries and gallery.
    """
    ranks = ranking.first_relevant_ranks(
        queries.x, gallery.x, queries.groups, gallery.groups, excluded
    )
    found = []
    for i in worst(np.nan_to_num(ranks.rank, nan=1.0) - 1, most):
        near = gallery.x @ queries.x[i]
        if excluded is not None and excluded[i] >= 0:
            near[excluded[i]] = -np.inf
        relevant = gallery.groups == queries.groups[i]
        beside = {
            "came first": gallery.ids[int(near.argmax())],
            "is right": gallery.ids[int(np.where(relevant, near, -np.inf).argmax())],
        }
        if sources[0] == sources[1] and beside["is right"] == queries.ids[i]:
            del beside["is right"]
        found.append(
            Mistake(
                source=sources[0],
                id=queries.ids[i],
                right="first",
                said=f"rank {ranks.rank[i]:,.0f} of {ranks.candidates[i]:,}",
                wrong=float(ranks.rank[i] - 1),
                beside=beside,
                beside_source=sources[1],
            )
        )
    return found
