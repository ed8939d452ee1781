"""The results as a table on the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mmfm_eval.report.rows import Row, rows
from mmfm_eval.results import Results


def show(results: Results, console: Console | None = None) -> None:
    """Print a table for each task (↓ lower is better, yellow no better than chance or baseline)."""
    console = console or Console()
    console.print(f"[bold]{results.suite}[/bold]")
    for task, scores in results.scores.items():
        shown = rows(scores)
        for direction in dict.fromkeys(row.direction for row in shown):
            part = [row for row in shown if row.direction == direction]
            console.print(_table(f"{task}  {direction}".rstrip(), part))
    for source, reasons in results.left_out.items():
        for reason, count in reasons.items():
            console.print(f"source {source}: {count} samples left out: {reason}", style="yellow")
    console.print(f"protocol {results.protocol['fingerprint'][:12]}", style="dim")


def _table(title: str, shown: list[Row]) -> Table:
    names = {row.baseline_name for row in shown} - {""}
    title = f"{title}  [dim]baseline: {', '.join(sorted(names)) or 'none'}[/dim]"
    table = Table(
        title=title,
        title_justify="left",
        title_style="",
        header_style="dim",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("metric", no_wrap=True)
    for name in ("value", "95 % interval", "chance", "baseline", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in shown:
        table.add_row(
            row.metric + (" ↓" if row.lower_is_better else ""),
            row.value,
            row.interval,
            row.chance,
            row.baseline,
            row.n,
            style="" if row.good else "yellow",
        )
    return table
