"""A map of the shared space: pictures, names and sounds of some tens of concepts, drawn by lot.

    type: map
    title: One space for drawings, names and voices
    run: main
    pictures: unseen_art
    voices: unseen_voices

t-SNE (van der Maaten and Hinton 2008) of the embeddings, each modality's mean taken off first: it
would otherwise set the modalities apart as wholes (Liang et al. 2022, arXiv:2203.02053).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from mmfm_eval.report import media
from mmfm_eval.report.panels.base import Panel, PanelConfig, check_count
from mmfm_eval.report.template import render
from mmfm_eval.tasks.base import Rows

if TYPE_CHECKING:
    from mmfm_eval.report.context import Context

WIDTH, HEIGHT, MARGIN = 1080.0, 720.0, 46.0


@dataclass(kw_only=True)
class Config(PanelConfig):
    """`shown` concepts that have a picture and a name in `pictures` and a sound in `voices`."""

    run: str
    pictures: str
    voices: str
    shown: int = 36

    def __post_init__(self) -> None:
        check_count(self.shown, "shown")

    def runs_read(self) -> list[str]:
        return [self.run]

    def sources_read(self) -> list[str]:
        return [self.pictures, self.voices]

    def render(self, context: Context) -> Panel:
        pictures = context.rows(self.run, self.pictures, "image")
        names = context.rows(self.run, self.pictures, "text")
        sounds = context.rows(self.run, self.voices, "audio")
        groups = np.intersect1d(np.intersect1d(pictures.groups, names.groups), sounds.groups)
        if len(groups) < 3:
            raise ValueError("fewer than 3 concepts have a picture, a name and a sound")
        count = min(self.shown, len(groups))
        groups = context.rng("map").permutation(groups)[:count]
        sides = [_centred(_of(rows, groups)) for rows in (pictures, names, sounds)]
        places = _spread(np.concatenate([side.x for side in sides]), context.config.seed)
        concepts = self._concepts(context, groups, sides, places)
        html = render(
            __name__,
            concepts=_apart(concepts),
            width=WIDTH,
            height=HEIGHT,
            together=_together(sides, places),
            seed=context.config.seed,
        )
        return Panel(self.title, html)

    def _concepts(
        self, context: Context, groups: NDArray[Any], sides: list[Rows], places: NDArray[Any]
    ) -> list[dict[str, Any]]:
        samples = context.samples(self.pictures)
        ends = np.cumsum([len(side) for side in sides])
        at = np.split(places, ends[:-1])
        concepts = []
        for group in groups:
            here = [at[i][side.groups == group].tolist() for i, side in enumerate(sides)]
            own = sides[0].ids[int(np.flatnonzero(sides[0].groups == group)[0])]
            raw = samples.read(own)
            concepts.append(
                {
                    "name": context.name(self.run, raw),
                    "picture": media.picture(raw.files, 48),
                    "pictures": here[0][:1],
                    "names": here[1][:1],
                    "sounds": here[2],
                }
            )
        return concepts


def _apart(concepts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with what overlaps pushed apart, by no more than that takes."""
    marks = [
        (place, size)
        for c in concepts
        for kind, size in (
            ("pictures", (36.0, 36.0)),
            ("names", (7.4 * len(c["name"]) + 8, 18.0)),
            ("sounds", (12.0, 12.0)),
        )
        for place in c[kind]
    ]
    at, size = (np.array(column) for column in zip(*marks, strict=True))
    reach = (size[:, None] + size[None]) / 2
    for _ in range(120):
        away = at[:, None] - at[None]
        overlap = reach - np.abs(away)
        meets = (overlap > 0).all(2) & ~np.eye(len(at), dtype=bool)
        if not meets.any():
            break
        # Along the axis on which less is to be done, half for each of the two.
        along = np.eye(2)[overlap.argmin(2)]
        push = np.where(away >= 0, 1.0, -1.0) * overlap * along * meets[..., None]
        at = np.clip(at + 0.3 * push.sum(1), size / 2, np.array([WIDTH, HEIGHT]) - size / 2)
    for (place, _), moved in zip(marks, at.tolist(), strict=True):
        place[:] = moved
    return concepts


def _of(rows: Rows, groups: NDArray[Any]) -> Rows:
    return rows.take(np.isin(rows.groups, groups))


def _centred(rows: Rows) -> Rows:
    """The rows without their mean, of length 1 again."""
    x = rows.x - rows.x.mean(0)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return Rows(x / np.maximum(length, 1e-9), rows.ids, rows.groups, rows.labels)


def _spread(x: NDArray[Any], seed: int) -> NDArray[Any]:
    """Places [n,2] in the drawing's units."""
    tsne = TSNE(
        metric="cosine",
        init="pca",
        perplexity=min(10.0, (len(x) - 1) / 3),
        random_state=seed,
        method="exact",  # a few hundred points
    )
    flat = tsne.fit_transform(x.astype(np.float64))
    # Ranks blended in: far groups would else leave the middle empty.
    ranks = flat.argsort(0).argsort(0) / (len(flat) - 1)
    scaled = (flat - flat.min(0)) / np.maximum(np.ptp(flat, axis=0), 1e-9)
    room = np.array([WIDTH, HEIGHT]) - 2 * MARGIN
    return np.asarray(MARGIN + (0.5 * ranks + 0.5 * scaled) * room)


def _together(sides: list[Rows], places: NDArray[Any]) -> float:
    """The share of all points whose nearest other point of the map is of their own concept."""
    groups = np.concatenate([side.groups for side in sides])
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    return float((groups[distance.argmin(1)] == groups).mean())
