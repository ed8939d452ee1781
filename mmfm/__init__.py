"""mmfm: pretrain, fine-tune and judge multimodal foundation models.

mmfm.load("runs/quickstart")                    # a trained model for use
mmfm.build("configs/pretrain/quickstart.yaml")  # a plain nn.Module task for a loop of your own
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from mmfm.predictor import Predictor
    from mmfm.task import Task

__version__ = "0.1.0"


def load(path: str | Path, device: str | torch.device | None = None) -> Predictor:
    """The model of a checkpoint, in evaluation mode; see `mmfm.predictor`."""
    from mmfm.predictor import load as load_predictor

    return load_predictor(path, device)


def build(
    config: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    label_names: Sequence[str] = (),
) -> Task:
    """The task of a recipe (a YAML file, or a mapping as in one): an `nn.Module` without any
    trainer.

    A recipe with a ``head`` needs the `label_names` of its data.
    """
    from mmfm.config import apply_overrides, read_yaml
    from mmfm.predictor import build as build_task

    if isinstance(config, Mapping):
        raw = copy.deepcopy(dict(config))  # overrides change it in place
        apply_overrides(raw, overrides)
    else:
        raw = read_yaml(config, overrides)
    return build_task(raw, label_names)
