"""Where a run's numbers are shown: a module for each tool, imported only when it is named.

    run: {trackers: [tensorboard, wandb, mlflow]}

A name with a dot is a module of your own. Each has a class `Tracker`, made on rank 0 alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mmfm.config import ConfigError, nearest

NAMES = ("tensorboard", "wandb", "mlflow")


class Tracker(Protocol):
    """Made of the run's folder, where it may keep what it needs to go on after a resume, and the
    complete recipe as plain data.
    """

    def __init__(self, folder: Path, recipe: dict[str, Any]) -> None: ...

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, by names such as ``train/loss``."""

    def close(self) -> None: ...


def find_trackers(names: Sequence[str]) -> list[type[Tracker]]:
    """The classes of `names`; ConfigError where one is unknown or its library isn't installed."""
    found = []
    for name in names:
        if "." not in name and name not in NAMES:
            raise ConfigError(
                f"run.trackers: there is no {name!r}{nearest(name, NAMES)}; or a dotted module name"
            )
        module = name if "." in name else f"{__name__}.{name}"
        try:
            found.append(importlib.import_module(module).Tracker)
        except ImportError as error:
            hint = "" if "." in name else f": pip install 'mmfm[{name}]'"
            raise ConfigError(f"run.trackers: {name} can't be imported ({error}){hint}") from None
    return found
