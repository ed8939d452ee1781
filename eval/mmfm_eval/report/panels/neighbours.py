"""Pictures that training never saw, with the nearest names: drawn by lot, misses shown like hits.

type: neighbours
title: An unseen drawing and its three nearest names
run: main
source: unseen_art
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmfm_eval.report import media
from mmfm_eval.report.panels.base import Panel, PanelConfig, check_count
from mmfm_eval.report.ranked import Ranked, rank
from mmfm_eval.report.template import render

if TYPE_CHECKING:
    from mmfm_eval.report.context import Context


@dataclass(kw_only=True)
class Config(PanelConfig):
    """`shown` pictures of `source`, each with the `nearest` of all names in the source."""

    run: str
    source: str
    shown: int = 12
    nearest: int = 3

    def __post_init__(self) -> None:
        check_count(self.shown, "shown")
        check_count(self.nearest, "nearest")

    def runs_read(self) -> list[str]:
        return [self.run]

    def sources_read(self) -> list[str]:
        return [self.source]

    def render(self, context: Context) -> Panel:
        pictures = context.rows(self.run, self.source, "image")
        names = context.rows(self.run, self.source, "text")
        ranked = rank(pictures, names, one_per_group=True)
        count = min(self.shown, len(ranked.queries))
        drawn = context.rng("neighbours").permutation(len(ranked.queries))[:count]
        html = render(
            __name__,
            cards=[self._card(context, ranked, int(i)) for i in drawn],
            first=ranked.share(1),
            among=ranked.share(self.nearest),
            nearest=self.nearest,
            queries=len(ranked.queries),
            names=len(ranked.gallery),
            seed=context.config.seed,
        )
        return Panel(self.title, html)

    def _card(self, context: Context, ranked: Ranked, i: int) -> dict[str, Any]:
        samples, group = context.samples(self.source), ranked.queries.groups[i]
        raw = samples.read(ranked.queries.ids[i])
        names = []
        for j in ranked.order[i, : self.nearest]:
            text = context.name(self.run, samples.read(ranked.gallery.ids[j]))
            right = bool(ranked.gallery.groups[j] == group)
            names.append((text, float(ranked.cosine[i, j]), right))
        return {
            "picture": media.picture(raw.files),
            "truth": context.name(self.run, raw),
            "names": names,
            "hit": any(right for _, _, right in names),
            "rank": f"{ranked.rank[i]:,.0f}",
        }
