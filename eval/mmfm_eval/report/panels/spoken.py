"""Spoken words in voices that training never heard, with the nearest drawings that it never saw.

type: spoken
title: A spoken word and its five nearest drawings
run: main
voices: unseen_voices
pictures: unseen_art
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
    """`shown` sounds of the source `voices`, each with the `nearest` of the source `pictures`
    among those of a concept that is spoken at all.
    """

    run: str
    voices: str
    pictures: str
    shown: int = 8
    nearest: int = 5

    def __post_init__(self) -> None:
        check_count(self.shown, "shown")
        check_count(self.nearest, "nearest")

    def runs_read(self) -> list[str]:
        return [self.run]

    def sources_read(self) -> list[str]:
        return [self.voices, self.pictures]

    def render(self, context: Context) -> Panel:
        sounds = context.rows(self.run, self.voices, "audio")
        ranked = rank(sounds, context.rows(self.run, self.pictures, "image"))
        count = min(self.shown, len(ranked.queries))
        drawn = context.rng("spoken").permutation(len(ranked.queries))[:count]
        cards = [self._card(context, ranked, int(i)) for i in drawn]
        html = render(
            __name__,
            cards=cards,
            first=ranked.share(1),
            among=ranked.share(self.nearest),
            nearest=self.nearest,
            queries=len(ranked.queries),
            pictures=len(ranked.gallery),
            speech=sorted({card["speech"] for card in cards} - {""}),
            seed=context.config.seed,
        )
        return Panel(self.title, html)

    def _card(self, context: Context, ranked: Ranked, i: int) -> dict[str, Any]:
        voices, art = context.samples(self.voices), context.samples(self.pictures)
        group, raw = ranked.queries.groups[i], voices.read(ranked.queries.ids[i])

        def drawing(j: int) -> dict[str, Any]:
            of = art.read(ranked.gallery.ids[j])
            right = bool(ranked.gallery.groups[j] == group)
            name = context.name(self.run, of)
            return {"uri": media.picture(of.files), "name": name, "right": right}

        nearest = [drawing(int(j)) for j in ranked.order[i, : self.nearest]]
        hit = any(d["right"] for d in nearest)
        own = next(int(j) for j in ranked.order[i] if ranked.gallery.groups[j] == group)
        return {
            "sound": media.sound(raw.files),
            "bars": media.loudness(raw.files),
            "word": context.name(self.run, raw),
            "voice": str(raw.meta.get("voice", "")),
            "speech": str(raw.meta.get("speech", "")),
            "nearest": nearest,
            "own": None if hit else drawing(own),
            "rank": f"{ranked.rank[i]:,.0f}",
        }
