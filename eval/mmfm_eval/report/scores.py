"""Scores from results.json by name, ready to be shown."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmfm_eval.report.rows import Row, rows
from mmfm_eval.tasks.base import Score

if TYPE_CHECKING:
    from mmfm_eval.report.context import Context


@dataclass(kw_only=True)
class ScoreName:
    """Where a score stands: `metric` of `task` in the results of `suite` on `run`."""

    run: str
    suite: str
    task: str
    metric: str


@dataclass(kw_only=True)
class Entry(ScoreName):
    """A score with what it is called; ``{gallery_groups}`` and other counts that the task noted
    are filled in. `beside`: other scores to compare it with, by what they are called.
    """

    label: str
    beside: dict[str, ScoreName] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """A score of `Entry` as people read it: its label, its row, and (name, value, place) of those
    beside it.
    """

    label: str
    row: Row
    beside: list[tuple[str, str, float]]


def find(context: Context, entry: Entry) -> Found:
    """Raises Missing where the run or its results are not there, ValueError for a name that the
    results don't have.
    """
    score, details = look_up(context, entry)
    try:
        label = entry.label.format_map({k: _count(v) for k, v in {**details, "n": score.n}.items()})
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"label {entry.label!r}: {error} can't be filled in; there are n, {', '.join(details)}"
        ) from None
    (row,) = rows([score])
    beside = []
    for name, other in entry.beside.items():
        (found,) = rows([look_up(context, other)[0]])
        beside.append((name, found.value, found.at))
    return Found(label, row, beside)


def look_up(context: Context, name: ScoreName) -> tuple[Score, dict[str, Any]]:
    """The score and what its task noted beside it."""
    results = context.run(name.run).results(name.suite)
    known = {(r["task"], r["metric"]): r for r in results["results"]}
    if (name.task, name.metric) not in known:
        wanted = f"{name.task} {name.metric}"
        have = [f"{task} {metric}" for task, metric in known]
        near = difflib.get_close_matches(wanted, have, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"run {name.run}, suite {name.suite} has no score {wanted!r}{hint}")
    row = known[name.task, name.metric]
    ci95 = None if row["ci95"] is None else (row["ci95"][0], row["ci95"][1])
    score = Score(
        *(row["metric"], row["value"], row["n"], ci95, row["chance"], row["baseline"]),
        baseline_name=row["baseline_name"],
    )
    return score, results["details"].get(name.task, {})


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
