"""A run's own report.html: loss curves and the scores of its evaluations, from metrics.jsonl alone.

One plain self-contained page; `mmfm eval` writes the fuller one with intervals and baselines.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from mmfm.files import write_text
from mmfm.train.log import read_metrics

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; display: block; overflow-x: auto; }
td, th { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884; }
td.n { font-variant-numeric: tabular-nums; text-align: right; white-space: nowrap; }
svg { width: 100%; height: auto; }
polyline { fill: none; stroke: currentColor; stroke-width: 1.5; }
text { fill: currentColor; font: 11px system-ui, sans-serif; }
"""

WIDTH, HEIGHT, LEFT, BOTTOM = 640, 180, 52, 22


def write(folder: Path) -> Path:
    """Write ``folder/report.html`` from ``folder/metrics.jsonl`` and return its path."""
    rows = read_metrics(folder / "metrics.jsonl")
    steps = {r["step"]: r for r in rows if r.get("split") == "train"}
    scores = [r for r in rows if "metric" in r]
    losses = sorted({key for r in steps.values() for key in r if _is_loss(key)})
    parts = [f"<h1>{html.escape(folder.name)}</h1>", _summary(steps), _sources(steps)]
    if scores:
        parts.append("<h2>Scores</h2>" + _table(scores))
    parts.append("<h2>Training losses</h2>")
    for key in losses:
        points = [(s, r[key]) for s, r in sorted(steps.items()) if key in r]
        parts.append(f"<h3>{html.escape(key)}</h3>{curve(points)}")
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(folder.name)}</title><style>{STYLE}</style>"
        f"<body>{''.join(parts)}</body></html>"
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def _is_loss(key: str) -> bool:
    return key.endswith("loss") and not key.startswith(("samples/", "epochs/"))  # of a source


def curve(points: list[tuple[int, float]]) -> str:
    """An inline SVG of (step, value) points with the ends of both axes written out."""
    if not points:
        return ""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    low, high = min(ys), max(ys)
    x_span, y_span = max(xs) - min(xs) or 1, high - low or 1.0
    inner_w, inner_h = WIDTH - LEFT - 8, HEIGHT - BOTTOM - 12

    def place(x: float, y: float) -> str:
        across = LEFT + (x - min(xs)) / x_span * inner_w
        down = 8 + (high - y) / y_span * inner_h
        return f"{across:.1f},{down:.1f}"

    line = " ".join(place(x, y) for x, y in points)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="from {ys[0]:.4g} to '
        f'{ys[-1]:.4g}"><polyline points="{line}"/>'
        f'<text x="2" y="14">{high:.4g}</text><text x="2" y="{8 + inner_h}">{low:.4g}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 4}">step {min(xs)}</text>'
        f'<text x="{WIDTH - 8}" y="{HEIGHT - 4}" text-anchor="end">{max(xs)}</text></svg>'
    )


def _summary(steps: dict[int, dict[str, Any]]) -> str:
    if not steps:
        return "<p>No step was logged.</p>"
    last = steps[max(steps)]
    return (
        f"<p>{last['step']} steps, {last['samples_seen']:,} samples; loss {last['loss']:.4f}; "
        f"{last['samples_per_s']:.0f} samples/s at the end, {100 * last['data_wait']:.0f} % of the "
        "time waiting for data.</p>"
    )


def _sources(steps: dict[int, dict[str, Any]]) -> str:
    """Samples and epochs of each source by the last step."""
    last = steps[max(steps)] if steps else {}
    names = [key.removeprefix("epochs/") for key in last if key.startswith("epochs/")]
    if not names:
        return ""
    lines = ["<tr><th>source<th>samples drawn<th>epochs"]
    for name in names:
        drawn, epochs = last[f"samples/{name}"], last[f"epochs/{name}"]
        lines.append(
            f'<tr><td>{html.escape(name)}<td class="n">{drawn:,}<td class="n">{epochs:.2f}'
        )
    return f"<h2>Data</h2><table>{''.join(lines)}</table>"


def _table(scores: list[dict[str, Any]]) -> str:
    """First and last value of every metric, with chance."""
    first: dict[tuple[str, str, str], dict[str, Any]] = {}
    last: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in scores:
        key = (row.get("split", "eval"), row["task"], row["metric"])
        first.setdefault(key, row)
        last[key] = row
    lines = ["<tr><th>task<th>metric<th>first<th>last<th>95 %<th>chance<th>n"]
    for (split, task, metric), row in last.items():
        before = first[split, task, metric]
        task = f"test: {task}" if split == "test" else task
        interval = row.get("ci95")
        cells = [
            f"{before['value']:.4f} (step {before['step']})",
            f"{row['value']:.4f} (step {row['step']})",
            "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}",
            "" if row.get("chance") is None else f"{row['chance']:.4f}",
            f"{row['n']:,}",
        ]
        names = f"<td>{html.escape(task)}<td>{html.escape(metric)}"
        lines.append("<tr>" + names + "".join(f'<td class="n">{c}' for c in cells))
    return f"<table>{''.join(lines)}</table>"
