"""A report's config ▶ one self-contained page."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from importlib import metadata
from typing import Any

from markupsafe import Markup

from mmfm_eval.report.config import ReportConfig
from mmfm_eval.report.context import Context
from mmfm_eval.report.missing import Missing
from mmfm_eval.report.panels.base import Panel
from mmfm_eval.report.template import environment, inline


def build(config: ReportConfig, say: Callable[[str], None] = lambda text: None) -> str:
    """The page as text. ValueError where a panel's settings don't fit what is there; what is not
    there yet stands on the page.
    """
    context = Context(config, say)
    panels = [_panel(name, panel, context) for name, panel in config.shown().items()]
    page = environment().get_template("report.html.j2")
    return page.render(
        config=config,
        panels=panels,
        left_out=context.left_out(),
        licences=_licences(context),
        version=metadata.version("mmfm"),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        style=inline("style.css") + inline("report.css"),
        script=inline("report.js"),
    )


def _panel(name: str, panel: Any, context: Context) -> dict[str, Any]:
    missing = ""
    try:
        made = panel.render(context)
    except Missing as missed:
        made, missing = Panel(panel.title, Markup("")), str(missed)
    except ValueError as error:
        raise ValueError(f"panels.{name}: {error}") from None
    return {
        "id": name.replace("_", "-"),
        "title": made.title,
        "short": panel.short or made.title,
        "lead": made.lead,
        "html": made.html,
        "missing": missing,
    }


def _licences(context: Context) -> list[str]:
    found = [s.about.get("licence", "") for s in context.opened.values()]
    return [text for text in dict.fromkeys(found) if text]
