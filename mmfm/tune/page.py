"""``tune.html``: one self-contained page with the history of a search, what explains its scores,
and each setting against the score.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from mmfm.files import write_text
from mmfm.train.log.report import STYLE
from mmfm.tune.result import importances, short
from mmfm.tune.space import Choices, Range
from mmfm.tune.study import Trials

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 220, 60, 34, 12
_MORE_STYLE = """
circle { fill: currentColor; fill-opacity: .55; }
circle.best { fill: #d9480f; fill-opacity: 1; }
rect { fill: currentColor; fill-opacity: .55; }
line { stroke: currentColor; stroke-opacity: .2; }
"""


def write(trials: Trials) -> Path:
    """Write the page into the search's folder and return its path."""
    search, best = trials.search, trials.best()
    done = trials.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    title = f"{search.folder}: {search.by.task} {search.by.metric}"
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if best is not None:
        told = html.escape(short(trials.settings_of(best)))
        parts.append(f"<p>Best: {best.value:.4f}, trial {best.number}.<br><code>{told}</code></p>")
        parts.append("<h2>History</h2>" + _history(done, best, search.by.mode))
        shares = importances(trials.study)
        if shares:
            parts.append("<h2>What explains the scores</h2>" + _bars(shares))
        parts.append("<h2>Each setting and the score</h2>")
        for name, space in search.space.items():
            parts.append(f"<h3>{html.escape(name)}</h3>{_against(name, space, done, best)}")
    parts.append("<h2>Trials</h2>" + _table(trials))
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{_MORE_STYLE}</style>"
        f"<body>{''.join(parts)}</body></html>"
    )
    path = search.folder / "tune.html"
    write_text(path, page)
    return path


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return float(trial.value)


class _Axes:
    """The place of (x, y) in a drawing; the ends of both axes are written out."""

    def __init__(self, xs: tuple[float, float], ys: Sequence[float]) -> None:
        self.x0, self.x1 = xs
        self.y0, self.y1 = min(ys), max(ys)

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x0) / ((self.x1 - self.x0) or 1.0)
        down = (self.y1 - y) / ((self.y1 - self.y0) or 1.0)
        return (
            LEFT + 8 + across * (WIDTH - LEFT - 24),
            TOP + down * (HEIGHT - BOTTOM - TOP - 8),
        )

    def dot(self, x: float, y: float, best: bool, title: str) -> str:
        across, down = self.place(x, y)
        kind, size = (' class="best"', 5) if best else ("", 3.5)
        told = f"<title>{html.escape(title)}</title>"
        return f'<circle cx="{across:.1f}" cy="{down:.1f}" r="{size}"{kind}>{told}</circle>'

    def frame(self, inside: str, ticks: Sequence[tuple[float, str]], label: str) -> str:
        texts = []
        for y in dict.fromkeys((self.y1, self.y0)):
            _, down = self.place(self.x0, y)
            texts.append(
                f'<text x="2" y="{down + 4:.1f}">{y:.4g}</text>'
                f'<line x1="{LEFT}" x2="{WIDTH - 8}" y1="{down:.1f}" y2="{down:.1f}"/>'
            )
        for x, text in dict(ticks).items():
            across, _ = self.place(x, self.y0)
            anchor = "end" if across > WIDTH - 80 else "start" if across < LEFT + 40 else "middle"
            texts.append(
                f'<text x="{across:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">'
                f"{html.escape(text)}</text>"
            )
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">'
            f"{inside}{''.join(texts)}</svg>"
        )


def _history(done: Sequence[FrozenTrial], best: FrozenTrial, mode: str) -> str:
    """A dot for each trial, and a line for the best so far."""
    last = max(trial.number for trial in done)
    axes = _Axes((0, last), [_value(trial) for trial in done])
    dots, line, so_far = [], [], None
    for trial in done:
        value = _value(trial)
        better = so_far is None or (value > so_far if mode == "max" else value < so_far)
        if better:
            if so_far is not None:
                line.append(axes.place(trial.number, so_far))
            so_far = value
            line.append(axes.place(trial.number, value))
        text = f"trial {trial.number}: {value:.4f}"
        dots.append(axes.dot(trial.number, value, trial.number == best.number, text))
    assert so_far is not None
    line.append(axes.place(last, so_far))
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
    drawn = f'<polyline points="{points}"/>{"".join(dots)}'
    return axes.frame(drawn, [(0, "trial 0"), (last, f"trial {last}")], "scores by trial")


def _bars(shares: dict[str, float]) -> str:
    rows = []
    for number, (name, share) in enumerate(shares.items()):
        y = 8 + 22 * number
        rows.append(
            f'<text x="2" y="{y + 12}">{html.escape(name)}</text>'
            f'<rect x="240" y="{y}" width="{max(1.0, 320 * share):.1f}" height="15"/>'
            f'<text x="{248 + 320 * share:.1f}" y="{y + 12}">{share:.2f}</text>'
        )
    height = 12 + 22 * len(shares)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(rows)}</svg>'


def _against(
    name: str, space: Range | Choices, done: Sequence[FrozenTrial], best: FrozenTrial
) -> str:
    values = [_value(trial) for trial in done]
    if isinstance(space, Range):
        scale = math.log10 if space.log else float
        low, high = scale(space.low), scale(space.high)
        ticks = [(low, f"{space.low:g}"), (high, f"{space.high:g}")]
        places = [scale(trial.params[name]) for trial in done]
    else:
        low, high = -0.5, len(space.values) - 0.5
        ticks = [(float(at), _text(value)) for at, value in enumerate(space.values)]
        places = [float(space.stored.index(trial.params[name])) for trial in done]
    axes = _Axes((low, high), values)
    dots = [
        axes.dot(
            x, y, t.number == best.number, f"trial {t.number}: {_text(t.params[name])}, {y:.4f}"
        )
        for x, y, t in zip(places, values, done, strict=True)
    ]
    return axes.frame("".join(dots), ticks, f"score by {name}")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _table(trials: Trials) -> str:
    lines = ["<tr><th>trial<th>state<th>score<th>settings"]
    for trial in trials.counted():
        score = "" if trial.value is None else f"{trial.value:.4f}"
        if trial.state == TrialState.PRUNED and trial.intermediate_values:
            step = max(trial.intermediate_values)
            score = f"{trial.intermediate_values[step]:.4f} at step {step}"
        told = trial.user_attrs.get("error") or short(trial.params)
        lines.append(
            f'<tr><td class="n">{trial.number}<td>{trial.state.name.lower()}<td class="n">{score}'
            f"<td>{html.escape(told)}"
        )
    return f"<table>{''.join(lines)}</table>"
