"""Learning curves: every loss of training, and the scores on held-out data during it.

type: curves
title: Learning curves
run: main
scores:
  unseen art ▶ its name: {task: art_to_name, metric: image_to_text_R@1}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from mmfm_eval.report.charts import Chart, running_mean
from mmfm_eval.report.missing import Missing
from mmfm_eval.report.panels.base import Panel, PanelConfig
from mmfm_eval.report.rows import number
from mmfm_eval.report.template import render

_FEW = 20
"""Points of which no mean is taken."""

if TYPE_CHECKING:
    from mmfm_eval.report.context import Context
    from mmfm_eval.report.run import Run


@dataclass(kw_only=True)
class Evaluated:
    """A `metric` of a `task` in the run's own evaluations."""

    task: str
    metric: str


@dataclass(kw_only=True)
class Config(PanelConfig):
    """`scores` by what they are called; the losses are all that the run has logged."""

    run: str
    scores: dict[str, Evaluated] = field(default_factory=dict)

    def runs_read(self) -> list[str]:
        return [self.run]

    def render(self, context: Context) -> Panel:
        run = context.run(self.run)
        if not run.training:
            raise Missing(f"{run.path} has not logged a step yet.")
        html = render(__name__, scores=self._scores(run), losses=losses(run))
        return Panel(self.title, html)

    def _scores(self, run: Run) -> list[tuple[str, str, Markup]]:
        charts = []
        for label, wanted in self.scores.items():
            rows = run.evaluations.get((wanted.task, wanted.metric))
            if rows is None:
                have = ", ".join(sorted({f"{t} {m}" for t, m in run.evaluations})) or "none"
                raise ValueError(
                    f"scores.{label}: run {run.name} logged no {wanted.task} {wanted.metric}; "
                    f"it has {have}"
                )
            charts.append(of_score(label, wanted.metric, rows))
        return charts


def of_score(label: str, metric: str, rows: Mapping[int, Any]) -> tuple[str, str, Markup]:
    """A chart of a score's rows by step: its label, the last value, the chart."""
    last = rows[max(rows)]
    share = number(0.5, metric).endswith("%")
    chart = Chart(
        [(step, row["value"]) for step, row in rows.items()],
        band=[(step, *row["ci95"]) for step, row in rows.items() if row.get("ci95")],
        level=last.get("chance"),
        zero=True,
        dots=True,
        say=(lambda y: f"{100 * y:.0f} %") if share else (lambda y: f"{y:g}"),
    )
    value = number(last["value"], metric)
    return label, value, chart.svg(f"{label}: {value} at step {last['step']}")


def losses(run: Run) -> list[tuple[str, str, Markup]]:
    """A chart for each term of each objective; an objective with one term has one chart."""
    keys = sorted({k for row in run.training.values() for k in row if k.endswith("_loss")})
    terms = [k for k in keys if "/" in k] or keys
    charts = []
    for key in terms:
        points = [(float(s), float(r[key])) for s, r in run.training.items() if key in r]
        smooth = running_mean(points) if len(points) > _FEW else points
        objective, _, term = key.removesuffix("_loss").partition("/")
        label = objective if term in ("", objective) else f"{objective}: {term}"
        label = label.replace("_", " ")
        said = f"{label}: from {smooth[0][1]:.3g} to {smooth[-1][1]:.3g}"
        charts.append((label, f"{smooth[-1][1]:.3g}", Chart(smooth, faint=points).svg(said)))
    return charts
