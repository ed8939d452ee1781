"""The tables of ``mmfm data inspect``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mmfm_prep.dataset.inspect.summary import Summary
from mmfm_prep.leaks import show_leaks

TOP = 8
"""How many names of a label, and words of a language, are shown."""


def show(summary: Summary, about: Mapping[str, Any], console: Console) -> None:
    """Print `summary` as tables."""
    for key in ("command", "licence"):
        console.print(f"{key}: {about.get(key, 'unknown')}", soft_wrap=True)
    for table in (_counts(summary), _media(summary), _labels(summary), _texts(summary)):
        if table.row_count:
            console.print(table)
    show_leaks(
        summary.leaks.report(about.get("held_out", ())),
        about.get("shared_by_design", ()),
        summary.leaks.between(about.get("held_out", ())),
        summary.leaks.ambiguous(),
        console,
    )
    for what, counter in (("not read (ending)", summary.ignored), ("broken", summary.unreadable)):
        if counter:
            console.print(f"{what}: " + ", ".join(f"{n:,} {k}" for k, n in counter.items()))
    for line in left_out(about):
        console.print(line, soft_wrap=True)


def left_out(about: Mapping[str, Any]) -> list[str]:
    """What the manifest says was left out, and done to texts, when the dataset was made."""
    notes = about.get("notes") or {}
    lines = [
        f"left out when it was made: {n:,} {r}" for r, n in (notes.get("dropped") or {}).items()
    ]
    for reason, entry in (notes.get("left_out") or {}).items():
        first = ", ".join(entry["first"])
        lines.append(f"left out when it was made: {entry['samples']:,} ({reason}), first {first}")
    events = notes.get("events")
    if isinstance(events, dict):  # interactions
        for reason, entry in events["left_out"].items():
            first = ", ".join(entry["first"])
            lines.append(f"left out of histories: {entry['events']:,} ({reason}), first {first}")
    for what, n in (notes.get("texts") or {}).items():
        lines.append(f"texts when it was made: {n:,} {what}")
    return lines


def spread(values: Sequence[float], form: str = ",.0f") -> str:
    """Least, middle and most of `values`; "" where there are none."""
    if not len(values):
        return ""
    low, middle, high = np.quantile(np.asarray(values), [0, 0.5, 1], method="nearest")
    if low == high:
        return f"{low:{form}}"
    return f"{low:{form}} – {middle:{form}} – {high:{form}}"


def _counts(summary: Summary) -> Table:
    table = _table("split", "modality set", "samples", "groups", "MB")
    last = ""
    for (split, modality_set), cell in sorted(summary.cells.items()):
        groups = f"{len(summary.groups[split]):,}" if split != last else ""
        name = modality_set or "nothing"
        table.add_row(split, name, f"{cell.samples:,}", groups, f"{cell.bytes / 1e6:.1f}")
        last = split
    table.add_section()
    samples = sum(c.samples for c in summary.cells.values())
    size = sum(c.bytes for c in summary.cells.values()) / 1e6
    every = len(set().union(*summary.groups.values()))
    table.add_row("all", "", f"{samples:,}", f"{every:,}", f"{size:.1f}")
    for modality in ("audio", "image", "text"):
        lacking = sum(c.samples for (_, s), c in summary.cells.items() if modality not in s)
        if lacking:
            table.add_row("", f"without {modality}", f"{lacking:,}", "", "")
    return table


def _media(summary: Summary) -> Table:
    table = _table("split", "least – middle – most", "")
    for split, media in sorted(summary.media.items()):
        width, height = np.asarray(media.width), np.asarray(media.height)
        if len(width):
            longer, shorter = np.maximum(width, height), np.minimum(width, height)
            table.add_row(split, spread(shorter), "pixels of the shorter side")
            table.add_row("", spread(longer / shorter, ".2f"), "longer by shorter side")
        if media.seconds:
            minutes = sum(media.seconds) / 60
            rates = ", ".join(f"{rate:,} Hz" for rate, _ in media.rates.most_common(3))
            said = f"seconds, {minutes:,.1f} minutes in all; {rates}"
            table.add_row(split if not len(width) else "", spread(media.seconds, ".1f"), said)
    for split, lengths in sorted(summary.histories.items()):
        table.add_row(split, spread(lengths), f"items of a history, {sum(lengths):,.0f} in all")
    return table


def _labels(summary: Summary) -> Table:
    table = _table("label", "names", "most common (share of its samples)")
    for name, counter in sorted(summary.labels.items()):
        total = sum(counter.values())
        top = ", ".join(f"{v} {n / total:.0%}" for v, n in counter.most_common(TOP))
        more = f", and {len(counter) - TOP} more" if len(counter) > TOP else ""
        table.add_row(name, f"{len(counter):,}", top + more)
    return table


def _texts(summary: Summary) -> Table:
    table = _table("language", "texts", "characters", "words", "distinct words", "most common")
    for language, texts in summary.texts.items():
        common = ", ".join(word for word, _ in texts.vocabulary.most_common(TOP))
        table.add_row(
            language or "(not said)",
            f"{len(texts.characters):,}",
            spread(texts.characters),
            spread(texts.words),
            f"{len(texts.vocabulary):,}",
            common,
        )
    return table


def _table(*headers: str) -> Table:
    table = Table(title_justify="left")
    numbers = ("samples", "groups", "MB", "names", "texts", "distinct words")
    for header in headers:
        table.add_column(header, justify="right" if header in numbers else "left", overflow="fold")
    return table
