"""What stands below the scores of a task: the table per class, what was taken for what, points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from mmfm_eval.report.charts import scatter

_DRAWN = {"per_class", "per_entity", "averages", "confusion", "confused", "points", "examples"}


@dataclass(frozen=True)
class ClassRow:
    """A class, or an average over them; numbers from 0 to 1, None where undefined."""

    name: str
    precision: float | None
    recall: float | None
    f1: float
    support: int
    average: bool


@dataclass(frozen=True)
class Cell:
    """How often a class was taken for another: `n` times, a `share` of the samples of its row."""

    n: int
    share: float
    right: bool


@dataclass(frozen=True)
class Matrix:
    """``rows[right][said]`` of the `classes`."""

    classes: list[str]
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Details:
    """A task's details ready to be shown; `facts` are those that are drawn in no other way."""

    classes: list[ClassRow]
    entities: bool
    matrix: Matrix | None
    confused: list[dict[str, Any]]
    points: Markup | None
    examples: list[dict[str, Any]]
    facts: dict[str, Any]


def details_of(details: Mapping[str, Any]) -> Details:
    """What a task's `Evaluator.details` holds, as the pages and the terminal show it."""
    averages = {row["class"] for row in details.get("averages", ())}
    if "per_entity" in details:
        averages = {"micro avg", "macro avg", "weighted avg"}
    rows = [*details.get("per_class", details.get("per_entity", ())), *details.get("averages", ())]
    points = details.get("points")
    return Details(
        classes=[
            ClassRow(
                row["class"],
                row["precision"],
                row["recall"],
                row["f1"],
                row.get("support", row.get("n", 0)),
                row["class"] in averages,
            )
            for row in rows
        ],
        entities="per_entity" in details,
        matrix=_matrix(details["confusion"]) if "confusion" in details else None,
        confused=list(details.get("confused", ())),
        points=scatter(points) if points else None,
        examples=list(details.get("examples", ())),
        facts={k.replace("_", " "): v for k, v in details.items() if k not in _DRAWN},
    )


def _matrix(confusion: Mapping[str, Any]) -> Matrix:
    rows = []
    for right, counts in enumerate(confusion["counts"]):
        total = max(sum(counts), 1)
        rows.append([Cell(n, n / total, right == said) for said, n in enumerate(counts)])
    return Matrix(confusion["classes"], rows)


def class_lines(title: str, rows: list[ClassRow], most: int = 40) -> list[str]:
    """The table per class as scikit-learn's classification_report prints it; of more than `most`
    classes only the averages.
    """
    classes = [row for row in rows if not row.average]
    shown = rows if len(classes) <= most else [row for row in rows if row.average]
    width = max([len(title), 12, *(len(row.name) for row in shown)])
    lines = [f"{title:<{width}}  precision    recall  f1-score   support", ""]
    for row in shown:
        if row.average and (row is shown[0] or not shown[shown.index(row) - 1].average):
            lines.append("")
        numbers = [
            f"{'' if x is None and row.average else f'{x or 0.0:.2f}':>10}"
            for x in (row.precision, row.recall, row.f1)
        ]
        lines.append(f"{row.name:>{width}} {''.join(numbers)}{row.support:>10,}")
    if shown is not rows:
        lines.append(f"({len(classes):,} classes: the table of each is in report.html)")
    return lines
