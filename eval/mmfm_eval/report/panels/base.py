"""What every panel offers.

A panel is a module with a dataclass `Config(PanelConfig)` whose `render(context)` gives a `Panel`,
and, where it is more than a few tags, a template of the same name beside it: ``neighbours.py`` and
``neighbours.html.j2``. Whatever it lacks it says by raising `Missing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from mmfm_eval.report.context import Context


@dataclass(frozen=True)
class Panel:
    """A section of the page: its title, a sentence or two below it, and what it shows."""

    title: str
    html: Markup
    lead: str = ""


@dataclass(kw_only=True)
class PanelConfig:
    """The settings that all panels share: the title of its section, and what stands in the page's
    contents.
    """

    title: str
    short: str | None = None

    def runs_read(self) -> list[str]:
        """Names of the runs that the panel reads."""
        return []

    def sources_read(self) -> list[str]:
        """Names of the sources that the panel reads."""
        return []

    def render(self, context: Context) -> Panel:
        """The panel. Raises Missing, or ValueError for what the user can mend."""
        raise NotImplementedError


def check_count(value: int, name: str) -> None:
    """ValueError unless `value` is at least 1."""
    if value < 1:
        raise ValueError(f"{name} = {value} must be at least 1")
