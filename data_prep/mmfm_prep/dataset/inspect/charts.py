"""The charts of the page: histograms as inline SVG, and bars of names."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from mmfm_prep.dataset.inspect.summary import Summary

_BINS = 24
_BARS = 12
_CHART = Markup(
    '<svg viewBox="0 0 320 120" role="img" aria-label="{}">{}<line x1="0" y1="100" x2="320" '
    'y2="100"/><text x="0" y="116">{}</text><text x="320" y="116" class="end">{}</text></svg>'
)
_BAR = Markup(
    '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
    "<title>{:,.4g} – {:,.4g}: {:,}</title></rect>"
)


def histograms(summary: Summary) -> list[dict[str, Any]]:
    """Sizes of pictures, lengths of sounds and of the texts of each language."""
    media = summary.media.values()
    sides = [min(pair) for one in media for pair in zip(one.width, one.height, strict=True)]
    seconds = [value for one in media for value in one.seconds]
    charts = [("shorter side of pictures, pixels", sides), ("length of sounds, seconds", seconds)]
    for language, texts in summary.texts.items():
        name = f" ({language})" if language else ""
        charts.append((f"characters of texts{name}", list(texts.characters)))
    return [
        {"title": title, "svg": _histogram(values, title), "n": len(values)}
        for title, values in charts
        if values
    ]


def _histogram(values: Sequence[float], title: str) -> Markup:
    """Bars by value, the highest 1 % gathered in the last."""
    found = np.asarray(values)
    low, high = float(found.min()), float(np.quantile(found, 0.99))
    if high <= low:
        high = low + 1
    counts, edges = np.histogram(np.minimum(found, high), _BINS, (low, high))
    width, top = 320 / _BINS, counts.max()
    drawn = [
        _BAR.format(i * width, 100 - 100 * n / top, width - 1, 100 * n / top, *edges[i : i + 2], n)
        for i, n in enumerate(counts.tolist())
    ]
    most = f"{high:,.3g}" + ("+" if found.max() > high else "")
    return _CHART.format(title, Markup("").join(drawn), f"{low:,.3g}", most)


def bars(summary: Summary) -> list[dict[str, Any]]:
    """The most common names of each label and words of each language."""
    charts: list[dict[str, Any]] = []
    counters: dict[str, Mapping[str, int]] = {f"label {n}": c for n, c in summary.labels.items()}
    for language, texts in summary.texts.items():
        counters[f"words{f' ({language})' if language else ''}"] = texts.vocabulary
    for title, counter in counters.items():
        common = heapq.nlargest(_BARS, counter.items(), key=lambda item: item[1])
        if common:
            top = common[0][1]
            rows = [(name, n, 100 * n / top) for name, n in common]
            rest = len(counter) - len(common)
            charts.append({"title": title, "rows": rows, "rest": rest, "n": len(counter)})
    return charts
