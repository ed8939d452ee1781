"""What somebody chose, and what is recommended next: histories drawn by lot, the item that truly
came next marked.

    type: viewers
    title: Three viewers and their next film
    run: movielens
    source: viewers
    items: films

The last item of each history was kept from training; the model sees all before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmfm.next_item import Ranked
from mmfm_eval.report.missing import Missing
from mmfm_eval.report.panels.base import Panel, PanelConfig, check_count
from mmfm_eval.report.template import render

if TYPE_CHECKING:
    from mmfm_eval.report.context import Context


@dataclass(kw_only=True)
class Config(PanelConfig):
    """`shown` histories of `source`, each with its `latest` items and the `recommended` ones;
    `items`: the source in which the items are described.
    """

    run: str
    source: str
    items: str
    shown: int = 3
    latest: int = 6
    recommended: int = 10

    def __post_init__(self) -> None:
        for name in ("shown", "latest", "recommended"):
            check_count(getattr(self, name), name)

    def runs_read(self) -> list[str]:
        return [self.run]

    def sources_read(self) -> list[str]:
        return [self.source, self.items]

    def render(self, context: Context) -> Panel:
        predictor = context.predictor(self.run)
        if not hasattr(predictor.head, "item_ids"):
            raise Missing(f"Run {self.run} has no recommendation head.")
        # Opened first: what is missing is said before anything is computed.
        context.samples(self.items)
        found = context.ranked(self.run, self.source)
        count = min(self.shown, len(found.row_ids))
        drawn = context.rng("viewers").permutation(len(found.row_ids))[:count]
        html = render(
            __name__,
            viewers=[self._viewer(context, found, int(i)) for i in drawn],
            hit=float((found.rank <= self.recommended).mean()),
            chance=float((self.recommended / found.candidates).mean()),
            k=self.recommended,
            latest=self.latest,
            users=len(found.row_ids),
            items=found.items,
            seed=context.config.seed,
        )
        return Panel(self.title, html)

    def _viewer(self, context: Context, found: Ranked, i: int) -> dict[str, Any]:
        predictor = context.predictor(self.run)
        head: Any = predictor.head
        ids = [head.item_ids[row] for row in found.histories[i]]
        watched, following = ids[:-1], ids[-1]
        best = predictor.recommend(watched, k=self.recommended)
        top = max(probability for _, probability in best)
        return {
            "count": len(watched),
            "watched": [_described(context, self.items, item) for item in watched[-self.latest :]],
            "best": [
                (*_described(context, self.items, item), probability / top, item == following)
                for item, probability in best
            ],
            "following": _described(context, self.items, following),
            "rank": f"{found.rank[i]:,.0f}",
            "hit": any(item == following for item, _ in best),
        }


def _described(context: Context, source: str, item: str) -> tuple[str, str]:
    """The name of an item, and what else is said of it."""
    raw = context.samples(source).read(item)
    texts = raw.meta.get("texts") or [item]
    first = next(iter(texts.values())) if isinstance(texts, dict) else texts
    whole = str(first[0] if isinstance(first, list) else first)
    genres = ", ".join(raw.meta.get("genres", []))
    return whole.removesuffix(f". {genres}"), genres
