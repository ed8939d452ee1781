"""MLflow: a run named after the run's folder, which a resume continues.

Server and experiment are MLflow's own settings (``MLFLOW_TRACKING_URI``,
``MLFLOW_EXPERIMENT_NAME``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow


class Tracker:
    """See `mmfm.train.log.trackers`."""

    def __init__(self, folder: Path, recipe: dict[str, Any]) -> None:
        known = folder / "mlflow_run_id"
        run_id = known.read_text() if known.exists() else None
        self._run = mlflow.start_run(run_id=run_id, run_name=None if run_id else folder.name)
        if run_id is None:
            known.write_text(self._run.info.run_id)
            mlflow.log_dict(recipe, "recipe.json")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        # MLflow refuses names such as R@1.
        named = {re.sub(r"[^\w\-. /]", "_", name): float(v) for name, v in values.items()}
        mlflow.log_metrics(named, step=step)

    def close(self) -> None:
        mlflow.end_run()
