"""One table over the results of several evaluations, with interval, chance and baselines.

    type: scores
    title: What it reached
    entries:
      art_to_name:
        label: "unseen art ▶ its name, first of {gallery_groups}"
        run: main
        suite: quickstart
        task: unseen_art_and_name
        metric: image_to_text_R@1
        beside:
          frozen nearest neighbour: {run: main, suite: …, task: …, metric: …}

An entry whose results are not there stands in the table as not run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmfm_eval.report.missing import Missing
from mmfm_eval.report.panels.base import Panel, PanelConfig
from mmfm_eval.report.scores import Entry, Found, find
from mmfm_eval.report.template import render

if TYPE_CHECKING:
    from mmfm_eval.report.context import Context


@dataclass(kw_only=True)
class Config(PanelConfig):
    """`entries` by name, in the order of the table; `lead` stands above it."""

    entries: dict[str, Entry]
    lead: str = ""

    def runs_read(self) -> list[str]:
        names = [e.run for e in self.entries.values()]
        return names + [b.run for e in self.entries.values() for b in e.beside.values()]

    def render(self, context: Context) -> Panel:
        return Panel(self.title, render(__name__, lines=self.lines(context)), self.lead)

    def lines(self, context: Context) -> list[tuple[str, Found | None, str]]:
        """(label, score, "") for each entry, or (label, None, what to do) where it has not run."""
        lines: list[tuple[str, Found | None, str]] = []
        for name, entry in self.entries.items():
            try:
                found = find(context, entry)
                lines.append((found.label, found, ""))
            except Missing as missing:
                lines.append((_without_counts(entry.label), None, str(missing)))
            except ValueError as error:
                raise ValueError(f"entries.{name}: {error}") from None
        return lines


def _without_counts(label: str) -> str:
    """The label where the counts that it asks for are not known."""
    parts = label.replace("}", "{").split("{")
    return "…".join(parts[::2])
