"""Which steps of a run are saved, and which of its checkpoints stay.

    train: {save_every: 500, keep_checkpoints: 2}
    train.keep_best: {task: image_to_text, metric: image_to_text_R@1}

With `keep_best`, an evaluation with a better score than all before it is saved too, and stays.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmfm import checkpoint, distributed
from mmfm.config import ConfigError, dump, nearest, to_dict
from mmfm.data.pipeline import Pipeline
from mmfm.train.engine import state
from mmfm.train.mining import FILE
from mmfm.train.recipe import Recipe
from mmfm.train.run import Run
from mmfm.train.trainer import Trainer


def check_keep_best(recipe: Recipe) -> None:
    """ConfigError where `train.keep_best` names no task of the evaluation."""
    wanted = recipe.train.keep_best
    if wanted is not None and wanted.task not in recipe.eval.tasks:
        raise ConfigError(
            f"train.keep_best.task = {wanted.task!r} is none of eval.tasks"
            f"{nearest(wanted.task, recipe.eval.tasks)}"
        )


class Saver:
    """Writes the checkpoints of a run; `saved` is the step of the newest one."""

    def __init__(self, run: Run, trainer: Trainer, pipeline: Pipeline, saved: int | None) -> None:
        self.run, self.trainer, self.pipeline = run, trainer, pipeline
        self.saved = saved

    def save(self) -> None:
        """Write the checkpoint of the trainer's step, unless it is there, then delete those that
        don't stay; collective.
        """
        step = self.trainer.step_index
        if self.saved != step:
            checkpoint.write(
                self.run.checkpoints,
                step,
                step * self.pipeline.config.global_batch_size,
                {
                    "model": state.weights_part(self.trainer.engine),
                    "optimizer": state.optimizer_part(self.trainer.engine),
                    **self._average(),
                },
                self._write_files,
                {
                    "fingerprint": self.pipeline.order.fingerprint,
                    "optimizer_scalars": state.optimizer_scalars(self.trainer.engine),
                    "loss_scaler": state.loss_scaler_state(self.trainer.engine),
                },
            )
            self.saved = step
        if distributed.is_main():
            checkpoint.prune(self.run.checkpoints, self.run.recipe.train.keep_checkpoints)

    def _average(self) -> dict[str, Iterable[tuple[str, Tensor]]]:
        kept = self.run.recipe.optim.ema is not None
        return {"ema": state.ema_part(self.trainer.engine)} if kept else {}

    def keep_best(self, scores: Mapping[str, Iterable[Any]]) -> None:
        """Save the step, and mark it, if its score is better than all before; collective.

        `scores`: eval task ▶ its scores at this step. ConfigError where the metric isn't among
        them.
        """
        wanted = self.run.recipe.train.keep_best
        if wanted is None:
            return
        value = wanted.value_in(scores)
        about = {"task": wanted.task, "metric": wanted.metric}
        folder = self.run.checkpoints
        before = checkpoint.best(folder) if distributed.is_main() else None
        before = distributed.broadcast_object(before)
        comparable = before is not None and before.items() >= about.items()
        if not wanted.is_better(value, before["value"] if comparable and before else None):
            return
        self.save()
        if distributed.is_main():
            step = self.trainer.step_index
            checkpoint.mark_best(folder, step, {"step": step, **about, "value": value})

    def _write_files(self, folder: Path) -> None:
        run = self.run
        (folder / "config.yaml").write_text(dump(run.recipe), encoding="utf-8")
        preprocessing = {
            "specs": run.task.specs,
            "transforms": to_dict(run.recipe.data)["transforms"],
            "label": run.label,
        }
        (folder / "preprocessing.json").write_text(
            json.dumps(preprocessing, indent=1, ensure_ascii=False), encoding="utf-8"
        )
        run.task.model.save_assets(folder / "assets")
        if self.pipeline.negatives is not None:
            shutil.copyfile(self.pipeline.negatives.path, folder / FILE)
