"""The command `mmfm pretrain`.

    mmfm pretrain configs/pretrain/tiny.yaml
    deepspeed --num_gpus 2 --module mmfm pretrain configs/pretrain/quickstart.yaml run.seed=1

The same command again continues the run, on any number of ranks that divides `data.streams`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmfm.checkpoint import Checkpoint
from mmfm.config import ConfigError
from mmfm.task import PretrainTask
from mmfm.train.command import main as run_command
from mmfm.train.recipe import load_pretrain
from mmfm.train.run import Run
from mmfm.weights import load_model


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command("pretrain", "Pretrain a model on shards.", argv, prepare)


def prepare(config: str, overrides: Sequence[str] = ()) -> Run:
    """The run of a recipe, with its task built; ValueError where anything doesn't fit."""
    recipe = load_pretrain(config, overrides)
    torch.manual_seed(recipe.run.seed)
    task = PretrainTask.build(recipe)
    if task.mask_ratios and not any(s.masked_view for s in recipe.data.sources.values()):
        raise ConfigError(
            f"objectives mask {', '.join(task.mask_ratios)}, but every one of data.sources has "
            "masked_view: false; set it to true for one of them, or leave those objectives out"
        )
    if recipe.init is not None:
        load_model(task.model, Checkpoint.open(recipe.init))
    return Run(recipe, task)
