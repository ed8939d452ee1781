"""Cross-modal (or cross-source) retrieval: rank a gallery for each query, in both directions.

    type: retrieval
    query: {source: unseen_art, modality: image}  # or modalities: [image, audio], fused
    gallery: {source: unseen_art, modality: text, one_per_group: true}

An item is relevant to a query of equal `group`. Metrics, for each direction: recall at 1, 5 and 10
(the share of queries with a relevant item among the first), the median rank of the first relevant
item and its mean reciprocal rank. Cosine on the embeddings; `features: pooled` takes an encoder's
own outputs, which shows what a frozen encoder alone finds.

`rerank: 16` has the fusion judge each query beside its best 16, by a matching objective or head
of the checkpoint, and orders these by it; the metrics of that end with ``_reranked``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmfm.config import ConfigError
from mmfm_eval.metrics import bootstrap, ranking
from mmfm_eval.metrics.neighbours import unit_rows
from mmfm_eval.mistakes import Mistake
from mmfm_eval.readings import OwnPass, Predictor, Reading
from mmfm_eval.tasks import _reranking as reranking
from mmfm_eval.tasks._missed import missed
from mmfm_eval.tasks._reranking import Judged, TokenStore, matching_of
from mmfm_eval.tasks.base import Evaluator, Rows, Score, on_main, rows_of, same_row

AT = (1, 5, 10)
RERANKED = "_reranked"


@dataclass(kw_only=True)
class Side:
    """Queries or gallery: one `modality` of a `source`, or the fused embedding of its `modalities`.

    `one_per_group` keeps one row of each group, the first by sample id: where all rows of a group
    are the same.
    """

    source: str
    modality: str | None = None
    modalities: list[str] | None = None
    one_per_group: bool = False

    def __post_init__(self) -> None:
        if (self.modality is None) == (self.modalities is None):
            raise ValueError("give either modality (one) or modalities (a list, fused)")
        if self.modalities is not None and len(set(self.modalities)) != len(self.modalities):
            raise ValueError(f"modalities {self.modalities} names one twice")
        if self.modalities is not None and not self.modalities:
            raise ValueError("modalities is empty: name at least one")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.modalities or [str(self.modality)])

    @property
    def key(self) -> str:
        """The name of the rows in what was encoded."""
        return "fused" if self.modalities else str(self.modality)

    @property
    def title(self) -> str:
        return "+".join(self.names) + ("_fused" if self.modalities and len(self.names) == 1 else "")


@dataclass(kw_only=True)
class Config:
    """Settings of a retrieval task; see the module's text."""

    query: Side
    gallery: Side
    only_shared_groups: bool = True
    both_directions: bool = True
    features: Literal["embedding", "pooled"] = "embedding"
    rerank: int = 0
    baseline: Literal["untrained", "pixels", "none"] = "untrained"

    def __post_init__(self) -> None:
        if self.features == "pooled" and (
            self.query.key == "fused" or self.query.names != self.gallery.names
        ):
            raise ValueError(
                "features: pooled compares an encoder's outputs with its own: one modality on both "
                "sides"
            )
        if self.rerank < 0:
            raise ValueError(f"rerank = {self.rerank} must not be negative")
        if self.rerank and set(self.query.names) & set(self.gallery.names):
            raise ValueError("rerank: the fusion judges two sides without a modality in common")
        if self.query.source == self.gallery.source:
            both = set(self.query.names) & set(self.gallery.names)
            if both and (self.query.key == "fused" or self.gallery.key == "fused"):
                raise ValueError(
                    f"query and gallery both hold {', '.join(sorted(both))} of source "
                    f"{self.query.source!r}: "
                    "a query would find itself; leave it out of one side"
                )
        if self.baseline == "pixels" and {self.query.key, self.gallery.key} != {"image"}:
            raise ValueError(
                "baseline: pixels compares pictures with pictures; use untrained or none"
            )

    def build(self) -> Retrieval:
        return Retrieval(self)


class Retrieval(Evaluator):
    """See the module's text."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.baseline = config.baseline
        query, gallery = config.query, config.gallery
        pooled = config.features == "pooled"
        self._query, self._gallery = (
            Reading(side.source, side.names, fused=side.key == "fused", pooled=pooled)
            for side in (query, gallery)
        )
        if query.source == gallery.source and not (self._query.fused or self._gallery.fused):
            names = tuple(dict.fromkeys(query.names + gallery.names))
            self._query = self._gallery = Reading(query.source, names, pooled=pooled)
        both = query.names + gallery.names
        self._judged = JudgedReading(query.source, both, of=self) if config.rerank else None

    @property
    def readings(self) -> tuple[Reading, ...]:
        return self._plain if self._judged is None else (self._judged,)

    @property
    def _plain(self) -> tuple[Reading, ...]:
        return tuple(dict.fromkeys((self._query, self._gallery)))

    def check_sources(self, sources: Iterable[str]) -> None:
        sources = list(sources)
        super().check_sources(sources)
        if self.config.gallery.source not in sources:
            raise ConfigError(
                f"there is no source {self.config.gallery.source!r}; valid: {', '.join(sources)}"
            )

    def check_model(self, predictor: Predictor) -> None:
        super().check_model(predictor)
        if self._judged is not None:
            matching_of(getattr(predictor, "task", None), set(self._judged.modalities))

    def score(self, encoded: Mapping[Reading, Any]) -> Iterable[Score]:
        judged: list[Judged | None] = [None, None]
        if self._judged is not None:
            encoded, *judged = encoded[self._judged]
        left, right = self._sides(encoded)
        first, second = self._titles()
        yield from self._direction(f"{first}_to_{second}", left, right, judged[0])
        if self.config.both_directions and not self._symmetric:
            yield from self._direction(f"{second}_to_{first}", right, left, judged[1])

    def judge(self, predictor: Any, data: Mapping[str, Any]) -> tuple[Any, ...]:
        """What was encoded, and how the fusion judges the best of each direction; collective."""
        config, encoded = self.config, {}
        with TokenStore() as store:
            for reading in self._plain:
                encoded[reading] = predictor.encode_batches(
                    data[reading.source],
                    reading.modalities,
                    fused=reading.fused,
                    seen=partial(store.add, reading.source),
                )
            left, right = on_main(lambda: self._sides(encoded))
            sides = [
                (rows, reranking.Side(side.source, side.names, rows.ids))
                for rows, side in ((left, config.query), (right, config.gallery))
            ]
            judged: list[Judged | None] = []
            for (queries, query), (gallery, keys) in (sides, sides[::-1]):
                if judged and not config.both_directions:
                    judged.append(None)
                    break
                candidates = reranking.best(queries.x, gallery.x, config.rerank)
                judged.append(reranking.judge(predictor, store, query, keys, candidates))
        return encoded, *judged

    def details(self, encoded: Mapping[Reading, Any]) -> dict[str, Any]:
        if self._judged is not None:
            encoded = encoded[self._judged][0]
        left, right = self._sides(encoded)
        return {
            "query_rows": len(left),
            "gallery_rows": len(right),
            "query_groups": len(np.unique(left.groups)),
            "gallery_groups": len(np.unique(right.groups)),
            "ties": f"cosines within {ranking.TIE} are tied and count as their expected rank",
        }

    def mistakes(self, encoded: Mapping[Reading, Any], most: int) -> list[Mistake]:
        """The queries of the first direction whose relevant items stand farthest behind, before
        any re-ranking.
        """
        if self._judged is not None:
            encoded = encoded[self._judged][0]
        queries, gallery = self._sides(encoded)
        excluded = same_row(queries, gallery) if self._same_kind else None
        sources = (self.config.query.source, self.config.gallery.source)
        return missed(queries, gallery, excluded, sources, most)

    @property
    def _symmetric(self) -> bool:
        """Both sides are the same rows, so that there is one direction only."""
        return self._same_kind and self.config.query.source == self.config.gallery.source

    def _titles(self) -> tuple[str, str]:
        query, gallery = self.config.query, self.config.gallery
        if query.title != gallery.title or query.source == gallery.source:
            return query.title, gallery.title
        return f"{query.source}.{query.title}", f"{gallery.source}.{gallery.title}"

    def _sides(self, encoded: Mapping[Reading, Any]) -> tuple[Rows, Rows]:
        query, gallery, features = self.config.query, self.config.gallery, self.config.features
        left = rows_of(encoded[self._query], self._query, query.key, features)
        right = rows_of(encoded[self._gallery], self._gallery, gallery.key, features)
        left, right = _thin(left, query), _thin(right, gallery)
        if features == "pooled":
            left, right = replace(left, x=unit_rows(left.x)), replace(right, x=unit_rows(right.x))
        if self.config.only_shared_groups:
            shared = np.intersect1d(left.groups, right.groups)
            left = left.take(np.isin(left.groups, shared))
            right = right.take(np.isin(right.groups, shared))
        if not len(left) or not len(right):
            raise ValueError(
                f"no group stands both in source {query.source!r} ({query.key}) and in source "
                f"{gallery.source!r} ({gallery.key}): nothing can be retrieved"
            )
        return left, right

    def _direction(
        self, name: str, queries: Rows, gallery: Rows, judged: Judged | None
    ) -> Iterable[Score]:
        excluded = same_row(queries, gallery)
        if not self._same_kind and (excluded >= 0).any() and self._overlapping_kinds:
            raise ValueError(
                "fused queries contain the very pictures, texts or sounds of the gallery"
            )
        ranks = ranking.first_relevant_ranks(
            queries.x,
            gallery.x,
            queries.groups,
            gallery.groups,
            excluded if self._same_kind else None,
        )
        answerable = ranks.relevant > 0
        if not answerable.any():
            raise ValueError(f"{name}: no query has a relevant item in the gallery")
        chance = ranking.chance_level(ranks.relevant[answerable], ranks.candidates[answerable], AT)
        by_chance = {f"R@{k}": chance.recall[k] for k in AT}
        by_chance |= {"median_rank": chance.median_rank, "MRR": chance.reciprocal_rank}
        statistics = _statistics(ranks.rank[answerable])
        if judged is not None:
            after = ranking.first_relevant_ranks(
                queries.x, gallery.x, queries.groups, gallery.groups, judged=judged
            )
            again = _statistics(after.rank[answerable])
            statistics |= {f"{metric}{RERANKED}": value for metric, value in again.items()}
        estimates = bootstrap.estimate(statistics, queries.groups[answerable], seed=self.seed)
        for metric, found in estimates.items():
            at_random = by_chance[metric.removesuffix(RERANKED)]
            n = int(answerable.sum())
            yield Score(f"{name}_{metric}", found.value, n, found.ci95, at_random)

    @property
    def _same_kind(self) -> bool:
        """Both sides hold the same modality, so that a sample on both sides is no candidate for
        itself.
        """
        return (self.config.query.key, self.config.query.names) == (
            self.config.gallery.key,
            self.config.gallery.names,
        )

    @property
    def _overlapping_kinds(self) -> bool:
        return bool(set(self.config.query.names) & set(self.config.gallery.names))


@dataclass(frozen=True)
class JudgedReading(OwnPass):
    """What a retrieval task with ``rerank`` needs: see `Retrieval.judge`."""

    of: Retrieval | None = None

    def __str__(self) -> str:
        return f"{self.source}, pairs of it"

    def run(self, predictor: Any, data: Mapping[str, Any]) -> tuple[Any, ...]:
        assert self.of is not None
        return self.of.judge(predictor, data)


def _statistics(rank: NDArray[np.float64]) -> dict[str, bootstrap.Statistic]:
    statistics: dict[str, bootstrap.Statistic] = {f"R@{k}": bootstrap.Share(rank <= k) for k in AT}
    statistics["median_rank"] = bootstrap.median(rank)
    statistics["MRR"] = bootstrap.mean(1 / rank)
    return statistics


def _thin(rows: Rows, side: Side) -> Rows:
    """One row of each group, the first by sample id, where the side asks for it."""
    if not side.one_per_group:
        return rows
    _, first = np.unique(rows.groups, return_index=True)
    return rows.take(np.sort(first))
