"""Start a model from the weights of a checkpoint of another run."""

from __future__ import annotations

from mmfm.checkpoint import Checkpoint, CheckpointError
from mmfm.model import Model
from mmfm.train.state import load_named


def start_from(model: Model, checkpoint: Checkpoint) -> None:
    """Copy the weights of the checkpoint's model, all of them, into `model`."""
    prefix = "model."
    found = checkpoint.tensors("model", prefix)
    if not found:
        raise CheckpointError(f"{checkpoint.path} has no weights of a model")
    load_named(model, {k[len(prefix) :]: v for k, v in found.items()}, str(checkpoint.path))
