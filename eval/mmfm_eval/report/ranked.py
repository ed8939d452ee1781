"""Which rows of a gallery are nearest to a query, for panels that show examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfm_eval.metrics import ranking
from mmfm_eval.tasks.base import Rows


@dataclass(frozen=True)
class Ranked:
    """`order` [q,g]: gallery rows from the nearest on; `cosine` [q,g] by gallery row; `rank` [q] of
    the first relevant row as the suites count it, from 1; `queries` and `gallery` as compared.
    """

    queries: Rows
    gallery: Rows
    order: NDArray[Any]
    cosine: NDArray[Any]
    rank: NDArray[Any]

    def share(self, k: int) -> float:
        """Of all queries, those with a relevant row among the first `k`."""
        return float((self.rank <= k).mean())


def rank(queries: Rows, gallery: Rows, one_per_group: bool = False) -> Ranked:
    """Both sides cut to the groups that they share; with `one_per_group` the first gallery row of
    each. ValueError where there are none.
    """
    shared = np.intersect1d(queries.groups, gallery.groups)
    if not len(shared):
        raise ValueError("no group stands on both sides: nothing can be found")
    queries = queries.take(np.isin(queries.groups, shared))
    gallery = gallery.take(np.isin(gallery.groups, shared))
    if one_per_group:
        gallery = gallery.take(np.sort(np.unique(gallery.groups, return_index=True)[1]))
    cosine = queries.x @ gallery.x.T
    found = ranking.first_relevant_ranks(queries.x, gallery.x, queries.groups, gallery.groups)
    order = np.argsort(-cosine, axis=1, kind="stable")
    return Ranked(queries, gallery, order, cosine, found.rank)
