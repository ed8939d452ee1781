"""The page of a fine-tuning run: what was trained, scores before and after, curves, tables per
class, the worst mistakes with their picture, text and sound.

    report: {type: finetuned, mistakes: 12}

It is made of the run's folder alone, and of the evaluation's sources for what the mistakes look
like. Of the test it shows scores and tables, not mistakes: what people learn from is none any more.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mmfm.files import write_text
from mmfm_eval.report.panels import curves
from mmfm_eval.report.rows import Row, rows, split_name
from mmfm_eval.report.runs._about import facts, sources, subtitle, unfinished
from mmfm_eval.report.runs._findings import Findings, Found, Pair
from mmfm_eval.report.runs._mistakes import Card, Sources
from mmfm_eval.report.tables import Details, class_lines, details_of
from mmfm_eval.report.template import environment, inline


@dataclass(kw_only=True)
class Config:
    """`mistakes`: how many of the worst of each task are shown."""

    mistakes: int = 12

    def __post_init__(self) -> None:
        if not 0 <= self.mistakes <= 200:
            raise ValueError(f"mistakes = {self.mistakes} must be from 0 to 200")

    def write(self, folder: Path) -> None:
        """Write ``folder/report.html``."""
        write_text(folder / "report.html", self.page(folder))

    def page(self, folder: Path) -> str:
        """The page of the run in `folder`, as text."""
        found = Findings(folder)
        run = found.run
        opened = Sources(run.recipe)
        tasks = [
            _task(name, run.recipe["eval"], pairs, found.found.get(name), opened, self.mistakes)
            for name, pairs in found.scores.items()
        ]
        test = found.test
        return (
            environment()
            .get_template("runs/finetuned.html.j2")
            .render(
                style=inline("style.css")
                + inline("report.css")
                + inline("tables.css")
                + inline("runs/finetuned.css"),
                name=folder.absolute().name,
                subtitle=subtitle(run),
                unfinished=unfinished(run),
                facts=facts(found),
                sources=sources(run),
                before=any(before for pairs in found.scores.values() for before, _ in pairs),
                after=found.after,
                best=found.best if found.best and found.best["step"] == found.after else None,
                tasks=tasks,
                gone=opened.gone,
                test=None if test is None else _test(test, run.recipe["test"], opened),
                curves=_curves(found),
                losses=curves.losses(run) if run.training else [],
                version=metadata.version("mmfm"),
                date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            )
        )

    def lines(self, folder: Path) -> list[str]:
        """The tables per class or entity of the evaluation that is handed out, and of the test."""
        found = Findings(folder)
        tables = [(task, kept) for task, kept in found.found.items()]
        if found.test is not None:
            tables += [(f"test: {task}", kept) for task, kept in found.test["found"].items()]
        lines: list[str] = []
        for title, kept in tables:
            classes = details_of(kept.details).classes
            if classes:
                lines += ["", *class_lines(title, classes)]
        return lines


@dataclass(frozen=True)
class ScoreRow:
    """A score with what it was before, on one axis."""

    before: Row | None
    after: Row


@dataclass(frozen=True)
class Task:
    """A task as the page shows it; `kept`: whether the run kept more than its scores."""

    name: str
    kind: str
    source: str
    n: str
    scores: list[ScoreRow]
    kept: bool
    details: Details
    mistakes: list[Card]


def _task(
    name: str,
    section: Mapping[str, Any],
    pairs: Sequence[Pair],
    found: Found | None,
    opened: Sources,
    mistakes: int,
) -> Task:
    settings = section["tasks"].get(name) or {}
    kind = str(settings.get("type", "")).rpartition(".")[2]
    return Task(
        name=name.replace("_", " "),
        kind=kind.replace("_", " "),
        source=str(settings.get("source", "")),
        n=f"{pairs[0][1].n:,}",
        scores=_rows(pairs),
        kept=found is not None,
        details=details_of({} if found is None else found.details),
        mistakes=opened.cards([] if found is None else found.mistakes[:mistakes]),
    )


def _rows(pairs: Sequence[Pair]) -> list[ScoreRow]:
    both = [score for pair in pairs for score in pair if score is not None]
    shown = iter(rows(both))
    return [ScoreRow(None if before is None else next(shown), next(shown)) for before, _ in pairs]


def _test(told: Mapping[str, Any], section: Mapping[str, Any], opened: Sources) -> dict[str, Any]:
    found = told["found"]
    tasks = [
        _task(name, section, pairs, found.get(name), opened, 0)
        for name, pairs in told["scores"].items()
    ]
    about = {name: told[name] for name in ("checkpoint", "step", "seen_before")}
    return {**about, "tasks": tasks}


def _curves(found: Findings) -> list[tuple[str, str, Markup]]:
    """A chart of each score that was taken more than once."""
    many = len(found.scores) > 1
    charts = []
    for (task, metric), points in found.run.evaluations.items():
        if len(points) > 1:
            label = " ".join(filter(None, split_name(metric)))
            label = f"{task.replace('_', ' ')}: {label}" if many else label
            charts.append(curves.of_score(label, metric, points))
    return charts
