"""Refit a fine-tuned model on grown data: its head goes on, new labels come behind the old ones,
and a share of the draws is from what it was trained on before.

    init: runs/ner            # fine-tuned, with a head of the same type and label
    init_head: auto           # never: a new head in any case
    replay: 0.2               # a fifth of all draws from the sources of runs/ner, as replay-NAME
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmfm.checkpoint import Checkpoint
from mmfm.config import Component, ConfigError, component, from_dict
from mmfm.data.pipeline import SourceConfig
from mmfm.heads.base import Head
from mmfm.heads.recommendation import ItemsConfig
from mmfm.heads.regression import RegressionHead
from mmfm.task import FinetuneTask
from mmfm.train.epochs import count_samples
from mmfm.train.recipe import FinetuneConfig
from mmfm.types import Label, LabelKind
from mmfm.weights import load_named

HEAD = "objectives.head.head."


class HeadBefore(NamedTuple):
    """The head of the checkpoint that a run begins with: its settings, what it learnt, its weights,
    and where it is from.
    """

    settings: dict[str, Any]
    label: Label | None
    weights: dict[str, Tensor]
    where: str

    @property
    def names(self) -> list[str]:
        return list(self.label.names) if self.label else []


def head_before(recipe: FinetuneConfig, found: Checkpoint | None) -> HeadBefore | str:
    """The head that the run's own goes on from, or why it begins anew."""
    if found is None:
        return "there is no init"
    if recipe.init_head == "never":
        return "init_head is never"
    settings = found.config.get("head")
    if settings is None:
        return f"{found.path} has none"
    told = found.preprocessing["label"]
    label = None if told is None else Label(*told)
    kind = type(component(settings, Component("mmfm.heads"), f"head of {found.path}"))
    if kind is not type(recipe.head):
        return f"that of {found.path} is of type {settings['type']}"
    if isinstance(getattr(recipe.head, "items", None), ItemsConfig):
        return "its items are encoded anew"
    field = getattr(recipe.head, "label", None)
    wanted = None if field is None else (field, label_kind(recipe.head))
    if wanted != (None if label is None else (label.field, label.kind)):
        learnt = f"a {label.kind} of {label.field!r}" if label else "no label"
        return f"that of {found.path} learnt {learnt}"
    weights = found.model_tensors(HEAD)
    weights = {name.removeprefix(HEAD): tensor for name, tensor in weights.items()}
    return HeadBefore(settings, label, weights, str(found.path))


def take_head(task: FinetuneTask, before: HeadBefore | str) -> str:
    """Give the head of `task` the weights of the one before, whose labels are the first of its own;
    a sentence on what was done.

    ConfigError where the two read other features or are built in another way.
    """
    if isinstance(before, str):
        return f"begins anew: {before}"
    head = task.head
    try:
        with torch.random.fork_rng(devices=[]):
            # How it was trained may not suit the encoders as they are now, as where one is cached.
            settings = {key: value for key, value in before.settings.items() if key != "mix"}
            config = component(settings, Component("mmfm.heads"), "head")
            old: Head = config.build(task.model, before.names)
        load_named(old, before.weights, before.where)
        if old.reads != head.reads:
            raise ValueError("it reads other modalities")
        if isinstance(old, RegressionHead) and isinstance(head, RegressionHead):
            _check_levels(old, head)
        state = head.state_dict()
        for name, tensor in old.state_dict().items():
            state[name] = _grown(name, tensor, state.get(name))
    except ValueError as error:
        raise ConfigError(
            f"head: that of {before.where} can't go on as this one: {error}; with "
            "init_head=never a new one begins"
        ) from None
    head.load_state_dict(state)
    names = getattr(head, "label_names", [])
    new = names[len(before.names) :]
    told = f"; new behind its {len(before.names)} labels: {', '.join(new)}" if new else ""
    return f"goes on from that of {before.where}{told}"


def _check_levels(old: RegressionHead, head: RegressionHead) -> None:
    was, now = old.order or [], head.order or []
    if now[: len(was)] != was:
        raise ValueError(f"its levels {was} are not the first of {now}")
    if (old.kind == "ordinal") != (head.kind == "ordinal"):
        raise ValueError(f"its loss is {old.kind}, this one's {head.kind}")


def label_kind(head_config: Any) -> LabelKind:
    """What kind of label the settings of a head want."""
    kind: LabelKind = getattr(head_config, "label_kind", "class")
    return kind


def _grown(name: str, old: Tensor, fresh: Tensor | None) -> Tensor:
    """`fresh` with the rows of `old` as its first: rows are labels."""
    if fresh is None or old.shape[1:] != fresh.shape[1:] or len(old) > len(fresh):
        there = "nothing" if fresh is None else list(fresh.shape)
        raise ValueError(f"{name} is {list(old.shape)} there and {there} here")
    return torch.cat([old, fresh[len(old) :]]) if old.ndim else old


def join_replay(recipe: FinetuneConfig, found: Checkpoint | None) -> None:
    """Put the sources of the checkpoint's recipe beside those of `recipe`, as ``replay-NAME``, with
    `recipe.replay` of all draws. A setting of ``data.sources.replay-NAME`` in the recipe counts;
    `load_finetune` has put those of the checkpoint beside it.

    ConfigError where one can't be opened any more.
    """
    if not recipe.replay:
        return
    assert found is not None, "FinetuneConfig has seen to it"
    own, replayed = 0.0, {}
    there = found.config["data"]["sources"]
    names = {f"replay-{name}": settings for name, settings in there.items()}
    for name, manifest, weight in recipe.data.open_sources():
        if name not in names:
            own += weight or count_samples([manifest])
    if not own:
        raise ConfigError("replay: data.sources has nothing but what is replayed")
    for name, settings in names.items():
        source = recipe.data.sources.get(name) or from_dict(SourceConfig, settings)
        try:
            manifest = recipe.data.open(source)
        except ValueError as error:
            raise ConfigError(
                f"replay: a source of {found.path} can't be opened any more ({error}); say where "
                f"it is as data.sources.{name}.path, or leave replay out"
            ) from None
        source.weight = source.weight or count_samples([manifest])
        replayed[name] = source
    part = recipe.replay / (1 - recipe.replay) * own
    total = sum(source.weight or 0.0 for source in replayed.values())
    if not math.isclose(total, part, rel_tol=1e-9):  # else a run's own config.yaml: bit for bit
        for source in replayed.values():
            source.weight = (source.weight or 0.0) * part / total
    recipe.data.sources |= replayed
