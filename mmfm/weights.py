"""Weights by name, out of a checkpoint into a module: all of them, or none."""

from __future__ import annotations

from torch import Tensor, nn

from mmfm.checkpoint import Checkpoint, CheckpointError
from mmfm.layers.lora import in_names_of, merged


def load_task(task: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy every weight of the checkpoint into `task`."""
    load_named(task, checkpoint.tensors("model"), str(checkpoint.path))


def load_model(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy the weights of the checkpoint's model, without its objectives or head, into `model`.

    What the checkpoint has of LoRA is added to its weights; that of `model` stays as it is. An
    encoder that is made of some layers of the checkpoint's takes those.
    """
    prefix = "model."
    found = checkpoint.model_tensors(prefix)
    if not found:
        raise CheckpointError(f"{checkpoint.path} has no weights of a model")
    plain = {k[len(prefix) :]: v for k, v in found.items()}
    lora = checkpoint.config.get("lora")
    if lora:
        plain = merged(plain, lora["alpha"] / lora["rank"])
    for name, part in model.named_modules():
        if hasattr(part, "pick"):
            inside = {k: plain.pop(k) for k in list(plain) if k.startswith(f"{name}.")}
            of_part = part.pick({k[len(name) + 1 :]: v for k, v in inside.items()})
            plain |= {f"{name}.{k}": v for k, v in of_part.items()}
    load_named(model, in_names_of(model, plain), str(checkpoint.path))


def load_named(module: nn.Module, found: dict[str, Tensor], where: str) -> None:
    """Copy tensors by name into `module`; CheckpointError unless names and shapes are exactly the
    same.
    """
    wanted = module.state_dict()
    missing, unknown = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or unknown:
        raise CheckpointError(
            f"{where} is of another model, or of another version of mmfm: it lacks "
            f"{some(missing)} and has {some(unknown)} besides"
        )
    for name, tensor in wanted.items():
        if tensor.shape != found[name].shape:
            raise CheckpointError(
                f"{where}: {name} has shape {list(found[name].shape)}, the model's is "
                f"{list(tensor.shape)}"
            )
    module.load_state_dict(found)


def some(names: list[str]) -> str:
    """The first names of a list that may be long, for a message."""
    shown = ", ".join(names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (shown or "nothing") + more
