"""report.html: one self-contained page; nothing is loaded from anywhere."""

from __future__ import annotations

import json
from typing import Any

from mmfm_eval.report.rows import rows
from mmfm_eval.report.tables import details_of
from mmfm_eval.report.template import environment, inline
from mmfm_eval.results import Results


def render(results: Results) -> str:
    """The page as text."""
    tasks = [_task(name, results) for name in results.scores]
    left_out = [
        (source, reason, count)
        for source, reasons in results.left_out.items()
        for reason, count in reasons.items()
    ]
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            style=inline("style.css") + inline("tables.css"),
            results=results,
            tasks=tasks,
            left_out=left_out,
            fingerprint=results.protocol["fingerprint"][:12],
            protocol=json.dumps(results.protocol, indent=2, ensure_ascii=False),
        )
    )


def _task(name: str, results: Results) -> dict[str, Any]:
    shown = rows(results.scores[name])
    directions = list(dict.fromkeys(row.direction for row in shown))
    return {
        "name": name.replace("_", " "),
        "kind": results.protocol["suite"]["tasks"][name]["type"].replace("_", " "),
        "directions": [(d, [row for row in shown if row.direction == d]) for d in directions],
        "baseline_name": next((row.baseline_name for row in shown if row.baseline_name), ""),
        "details": details_of(results.details.get(name, {})),
    }
