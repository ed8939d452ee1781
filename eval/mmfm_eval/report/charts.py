"""Line charts as inline SVG that takes its colours from the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 320.0, 168.0
LEFT, RIGHT, TOP, BOTTOM = 38.0, 10.0, 10.0, 22.0

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """`points` (x, y) in order of x, `faint` ones behind them; `band` (x, low, high); `level`: a
    dashed line; `zero`: y starts at 0 or below; `say`: the text of a tick.
    """

    points: Points
    faint: Points = ()
    band: Sequence[tuple[float, float, float]] = ()
    level: float | None = None
    zero: bool = False
    dots: bool = False
    say: Callable[[float], str] = lambda y: f"{y:g}"

    def svg(self, label: str) -> Markup:
        """The chart as an element; `label` is read out."""
        xs = [x for x, _ in (*self.points, *self.faint)]
        low, high = self._range()
        ticks = nice_ticks(low, high)
        low, high = min(low, ticks[0]), max(high, ticks[-1])

        def at(x: float, y: float) -> str:
            span = max(xs) - min(xs) or 1.0
            across = LEFT + (x - min(xs)) / span * (WIDTH - LEFT - RIGHT)
            down = TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)
            return f"{across:.1f},{min(max(down, 0.0), HEIGHT - BOTTOM):.1f}"

        parts = []
        for tick in ticks:
            height = at(min(xs), tick).split(",")[1]
            said = escape(self.say(tick))
            parts.append(_across("grid", height))
            parts.append(f'<text x="{LEFT - 6}" y="{height}" dy=".33em" class="end">{said}</text>')
        if self.band:
            upper = [at(x, h) for x, _, h in self.band]
            lower = [at(x, lo) for x, lo, _ in reversed(self.band)]
            parts.append(f'<polygon class="area" points="{" ".join(upper + lower)}"/>')
        if self.level is not None:
            parts.append(_across("chance", at(min(xs), self.level).split(",")[1]))
        for kind, points in (("faint", self.faint), ("line", self.points)):
            if points:
                drawn = " ".join(at(x, y) for x, y in points)
                parts.append(f'<polyline class="{kind}" points="{drawn}"/>')
        if self.dots:
            for place in (at(x, y).split(",") for x, y in self.points):
                parts.append(f'<circle class="dot" cx="{place[0]}" cy="{place[1]}" r="3"/>')
        ends = f'<text x="{LEFT}" y="{HEIGHT - 5}">step {min(xs):,.0f}</text>'
        ends += f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" class="end">{max(xs):,.0f}</text>'
        head = f'<svg class="chart" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img"'
        return Markup(f'{head} aria-label="{escape(label)}">{"".join(parts)}{ends}</svg>')

    def _range(self) -> tuple[float, float]:
        ys = [y for _, y in self.points]
        ys += [v for _, lo, hi in self.band for v in (lo, hi)]
        ys += [] if self.level is None else [self.level]
        if self.faint:  # outliers of single steps may leave the chart
            ys += np.quantile([y for _, y in self.faint], [0.02, 0.98]).tolist()
        low, high = min([*ys, 0.0] if self.zero else ys), max(ys)
        return (low, high) if high > low else (low - 0.5, high + 0.5)


def _across(kind: str, height: str) -> str:
    """A line over the whole width."""
    return f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height}" y2="{height}"/>'


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about that many."""
    raw = (high - low) / max(about - 1, 1)
    size = 10 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def running_mean(points: Points, share: float = 0.04) -> list[tuple[float, float]]:
    """Each y as the mean of its neighbours, in all about `share` of the points."""
    ys = np.array([y for _, y in points], dtype=np.float64)
    reach = max(1, round(len(ys) * share / 2))
    sums = np.concatenate([[0.0], np.cumsum(ys)])
    first = np.maximum(np.arange(len(ys)) - reach, 0)
    last = np.minimum(np.arange(len(ys)) + reach + 1, len(ys))
    means = (sums[last] - sums[first]) / (last - first)
    return [(x, float(m)) for (x, _), m in zip(points, means, strict=True)]


def scatter(pairs: Sequence[Sequence[float]]) -> Markup:
    """What was said (up) over what is right (across), on one scale, with the line of no error."""
    numbers = [x for pair in pairs for x in pair]
    low, high = min(numbers), max(numbers)
    if low == high:
        low, high = low - 0.5, high + 0.5
    ticks = nice_ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    side, left, top, bottom = 340.0, 46.0, 10.0, 34.0

    def across(x: float) -> float:
        return round(left + (x - low) / (high - low) * (side - left - 10), 1)

    def down(y: float) -> float:
        return round(top + (high - y) / (high - low) * (side - top - bottom), 1)

    ends = f'x1="{left:g}" x2="{side - 10:g}"'
    parts = [
        f'<line class="grid" {ends} y1="{down(t)}" y2="{down(t)}"/>'
        f'<text x="{left - 6:g}" y="{down(t)}" dy=".33em" class="end">{t:g}</text>'
        f'<text x="{across(t)}" y="{side - 20:g}" class="middle">{t:g}</text>'
        for t in ticks
    ]
    parts.append(f'<line class="chance" {ends} y1="{down(low)}" y2="{down(high)}"/>')
    parts += [f'<circle class="point" cx="{across(x)}" cy="{down(y)}" r="3"/>' for x, y in pairs]
    parts.append(f'<text x="{side - 10:g}" y="{side - 4:g}" class="end">right ▶, said ▲</text>')
    label = f"said over right for {len(pairs)} samples, from {low:g} to {high:g}"
    head = f'<svg class="chart scatter" viewBox="0 0 {side:g} {side:g}" role="img"'
    return Markup(f'{head} aria-label="{escape(label)}">{"".join(parts)}</svg>')
