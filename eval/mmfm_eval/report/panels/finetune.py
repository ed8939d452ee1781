"""Before and after fine-tuning on the same held-out rows: the vote of known neighbours in the
pretrained space against the fine-tuned head.

    type: finetune
    title: Before and after fine-tuning
    run: subcategory
    before: main
    known: known_art
    source: unseen_art

The head reads what its recipe says, the neighbours one `modality`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from mmfm_eval.metrics import bootstrap, neighbours
from mmfm_eval.report import media
from mmfm_eval.report.charts import Chart
from mmfm_eval.report.missing import Missing
from mmfm_eval.report.panels.base import Panel, PanelConfig, check_count
from mmfm_eval.report.template import render
from mmfm_eval.tasks.knn import Config as Knn

if TYPE_CHECKING:
    from mmfm_eval.report.context import Context

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Compared:
    """Class numbers by row: the right one, the neighbours' and the head's; the classes' names."""

    ids: list[str]
    groups: Ints
    truth: Ints
    before: Ints
    after: Ints
    names: list[str]


@dataclass(kw_only=True)
class Config(PanelConfig):
    """`shown` examples among those on which the two differ; the changes of as many `classes` of at
    least `smallest` samples, half of them the largest gains, half the largest losses.
    """

    run: str
    before: str
    known: str
    source: str
    modality: str = "image"
    shown: int = 9
    classes: int = 12
    smallest: int = 8

    def __post_init__(self) -> None:
        for name in ("shown", "classes", "smallest"):
            check_count(getattr(self, name), name)

    def runs_read(self) -> list[str]:
        return [self.run, self.before]

    def sources_read(self) -> list[str]:
        return [self.known, self.source]

    def render(self, context: Context) -> Panel:
        head: Any = context.predictor(self.run).head
        if head is None or not hasattr(head, "label_names"):
            raise Missing(f"Run {self.run} has no classification head.")
        found = self._compare(context)
        was, now = found.before == found.truth, found.after == found.truth
        statistics = {
            "before": bootstrap.mean(was),
            "after": bootstrap.mean(now),
            "gain": bootstrap.mean(now.astype(float) - was),
        }
        differ = np.flatnonzero(was != now)
        count = min(self.shown, len(differ))
        drawn = context.rng("finetune").permutation(differ)[:count]
        reads = context.run(self.run).recipe["head"].get("modalities", [])
        html = render(
            __name__,
            label=context.run(self.run).recipe["head"]["label"],
            scores=bootstrap.estimate(statistics, found.groups, seed=context.config.seed),
            counts=[int(x.sum()) for x in (was & now, ~was & now, was & ~now, ~was & ~now)],
            rows=len(found.ids),
            reads=reads,
            modality=self.modality,
            curve=self._curve(context),
            classes=self._classes(found),
            smallest=self.smallest,
            cards=[self._card(context, found, int(i)) for i in drawn],
            differ=len(differ),
            seed=context.config.seed,
        )
        return Panel(self.title, html)

    def _compare(self, context: Context) -> _Compared:
        outputs = context.head_outputs(self.run, self.source)
        label: str = context.run(self.run).recipe["head"]["label"]
        known = context.labelled(self.before, self.known, self.modality, label, outputs.names)
        known = known.take(known.labels >= 0)
        rows = context.rows(self.before, self.source, self.modality)
        head_row = {name: i for i, name in enumerate(outputs.ids) if outputs.labels[i] >= 0}
        rows = rows.take(np.array([name in head_row for name in rows.ids]))
        if not len(rows):
            raise ValueError(f"no sample of source {self.source!r} has the label {label!r}")
        at = np.array([head_row[name] for name in rows.ids], dtype=np.int64)
        settings = Knn(train=self.known, test=self.source, modality=self.modality, label=label)
        before = neighbours.vote(
            known.x,
            known.labels,
            rows.x,
            k=min(settings.k, len(known)),
            temperature=settings.temperature,
        )
        after = outputs.logits[at].argmax(1)
        truth = outputs.labels[at]
        return _Compared(rows.ids, rows.groups, truth, before, after, outputs.names)

    def _curve(self, context: Context) -> Markup | None:
        """The head's accuracy during fine-tuning, where the run was evaluated more than once."""
        for (_, metric), rows in context.run(self.run).evaluations.items():
            points = [(float(step), float(row["value"])) for step, row in rows.items()]
            if metric == "accuracy" and len(points) > 1:
                chart = Chart(points, zero=True, dots=True, say=lambda y: f"{100 * y:.0f} %")
                return chart.svg("the head's accuracy on held-out data during fine-tuning")
        return None

    def _classes(self, found: _Compared) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for number in np.unique(found.truth):
            own = found.truth == number
            if own.sum() >= self.smallest:
                before = float((found.before[own] == number).mean())
                after = float((found.after[own] == number).mean())
                name = found.names[int(number)].replace("-", " ").replace("_", " ")
                rows.append({"name": name, "n": int(own.sum()), "before": before, "after": after})
        rows.sort(key=lambda row: (row["before"] - row["after"], row["name"]))
        if len(rows) <= self.classes:
            return rows
        gained = -(-self.classes // 2)
        return rows[:gained] + rows[len(rows) - (self.classes - gained) :]

    def _card(self, context: Context, found: _Compared, i: int) -> dict[str, Any]:
        raw = context.samples(self.source).read(found.ids[i])
        named = [found.names[int(x[i])] for x in (found.truth, found.before, found.after)]
        truth, before, after = (name.replace("-", " ").replace("_", " ") for name in named)
        return {
            "picture": media.picture(raw.files) if "image" in raw.modalities else None,
            "name": context.name(self.before, raw),
            "before": before,
            "after": after,
            "better": after == truth,
        }
