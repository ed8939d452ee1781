"""The scores of a report as one table on the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mmfm_eval.report.config import ReportConfig
from mmfm_eval.report.context import Context
from mmfm_eval.report.panels import scores


def show(config: ReportConfig, console: Console | None = None) -> None:
    """Print each panel of scores that `config` shows; what has not run is in the table too."""
    console = console or Console(highlight=False)
    context = Context(config, lambda text: None)
    for panel in config.shown().values():
        if isinstance(panel, scores.Config):
            console.print(_table(panel, context))


def _table(panel: scores.Config, context: Context) -> Table:
    table = Table(title=panel.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("held out", overflow="fold")
    for name in ("score", "95 % interval", "chance"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("to beat")
    for label, found, _ in panel.lines(context):
        if found is None:
            table.add_row(label, "not run", style="yellow")
            continue
        row = found.row
        beat = [(row.baseline_name, row.baseline)] if row.baseline_name else []
        beat += [(name, value) for name, value, _ in found.beside]
        others = ", ".join(f"{name} {value}" for name, value in beat)
        table.add_row(label, row.value, row.interval, row.chance, others)
    return table
