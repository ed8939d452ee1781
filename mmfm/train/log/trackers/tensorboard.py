"""TensorBoard: event files in ``tensorboard/`` of the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class Tracker:
    """See `mmfm.train.log.trackers`."""

    def __init__(self, folder: Path, recipe: dict[str, Any]) -> None:
        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()
