"""Templates: a panel's lies beside its module and has its name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from mmfm_eval.report import rows

FOLDER = Path(__file__).parent


def render(module: str, **values: Any) -> Markup:
    """The template beside an imported `module` (``neighbours.py`` ▶ ``neighbours.html.j2``)."""
    file = sys.modules[module].__file__
    assert file is not None
    text = Path(file).with_suffix(".html.j2").read_text(encoding="utf-8")
    return Markup(environment().from_string(text).render(**values))


def environment() -> jinja2.Environment:
    """Templates of this folder by name; everything that is not Markup is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    # A number and its sign stay on one line.
    made.filters["percent"] = lambda share: rows.percent(share).replace(" ", "\u00a0")
    made.filters["commands"] = _commands
    made.filters["points"] = lambda share: f"{100 * share:+.1f}".replace("-", "−")
    return made


def inline(name: str) -> Markup:
    """A file of this folder as it stands."""
    return Markup((FOLDER / name).read_text(encoding="utf-8"))


def _commands(text: str) -> Markup:
    """`text` with what stands between backticks as code."""
    parts = [escape(part) for part in text.split("`")]
    tags = ("", "<code>", "</code>")
    return Markup("").join(
        Markup(tags[0 if i == 0 else 1 + (i + 1) % 2]) + part for i, part in enumerate(parts)
    )
