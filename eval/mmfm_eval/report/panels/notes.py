"""Plain words and commands: what the page does not show, and how to make it again.

type: notes
title: What this is not
points: ["Synthetic voices are …"]
commands: [scripts/quickstart]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmfm_eval.report.panels.base import Panel, PanelConfig
from mmfm_eval.report.template import render

if TYPE_CHECKING:
    from mmfm_eval.report.context import Context


@dataclass(kw_only=True)
class Config(PanelConfig):
    """`points`: a few words ▶ the whole sentence; `commands` make the page again."""

    points: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)

    def render(self, context: Context) -> Panel:
        return Panel(self.title, render(__name__, points=self.points, commands=self.commands))
