"""What a report page is made of, read from YAML: named runs, named sources, panels in order.

    title: Drawings and voices that it never met
    runs:
      main: {path: runs/quickstart, made_by: mmfm pretrain configs/pretrain/quickstart.yaml}
    sources:
      unseen_art: {path: data/emoji, splits: [pictures-twemoji]}
    panels:
      names: {type: neighbours, run: main, source: unseen_art}

Each panel's ``type`` names a module below `mmfm_eval.report.panels`, or with dots any other module.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from mmfm.config import Component, ConfigError
from mmfm_eval.suite import SourceConfig

PANELS = "mmfm_eval.report.panels"


@dataclass(kw_only=True)
class RunConfig:
    """The folder of a run, and the command that makes it, which the page says where it is
    missing.
    """

    path: str
    made_by: str = ""


@dataclass(kw_only=True)
class ReportConfig:
    """`only`: the panels to show (all by default); `seed` draws what is shown as an example;
    `feature_cache` is the folder for outputs of frozen encoders, the same as in training.
    """

    title: str
    subtitle: str = ""
    runs: dict[str, RunConfig]
    sources: dict[str, SourceConfig]
    panels: dict[str, Annotated[Any, Component(PANELS)]]
    only: list[str] | None = None
    out: str = "report.html"
    seed: int = 0
    batch_size: int = 128
    feature_cache: str = "cache/features"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size = {self.batch_size} must be at least 1")
        if not self.panels:
            raise ValueError("panels is empty: there is nothing to show")
        check_names("only", self.only or (), "panel", self.panels)
        for name, panel in self.panels.items():
            check_names(f"panels.{name}", panel.runs_read(), "run", self.runs)
            check_names(f"panels.{name}", panel.sources_read(), "source", self.sources)

    def shown(self) -> dict[str, Any]:
        """The panels of the page, in order."""
        return {k: p for k, p in self.panels.items() if self.only is None or k in self.only}


def check_names(where: str, names: Iterable[str], kind: str, known: Iterable[str]) -> None:
    """ConfigError where one of `names` is not `known`."""
    known = list(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f" did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"{where}: there is no {kind} {name!r};{hint} Valid: {', '.join(known)}"
            )
