"""Weights & Biases: a run named after the run's folder, which a resume continues.

Project, server and mode are wandb's own settings (``WANDB_PROJECT``, ``WANDB_MODE=offline``).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb


class Tracker:
    """See `mmfm.train.log.trackers`."""

    def __init__(self, folder: Path, recipe: dict[str, Any]) -> None:
        known = folder / "wandb" / "run_id"
        known.parent.mkdir(parents=True, exist_ok=True)
        if not known.exists():
            known.write_text(uuid.uuid4().hex)
        self._run = wandb.init(
            dir=str(folder),
            name=folder.name,
            id=known.read_text(),
            resume="allow",
            config=recipe,
            settings=wandb.Settings(console="off", silent=True),
        )
        # A step that is run again after a resume is drawn where it belongs.
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()
