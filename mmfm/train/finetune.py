"""The command `mmfm finetune`: a head on a pretrained model, with its scores before and after.

mmfm finetune configs/finetune/quickstart.yaml init=runs/quickstart freeze=encoders
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from mmfm.checkpoint import Checkpoint
from mmfm.config import ConfigError
from mmfm.heads.recommendation import HISTORY, ItemsConfig, RecommendationHead
from mmfm.task import FinetuneTask
from mmfm.train.command import main as run_command
from mmfm.train.inherit import inherit
from mmfm.train.items import check_histories, encode_items, item_ids
from mmfm.train.log import read_metrics
from mmfm.train.recipe import FinetuneConfig, load_finetune
from mmfm.train.run import Run
from mmfm.types import Label, LabelKind
from mmfm.weights import load_model


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    about = "Fine-tune a model with a head; shows the scores before and after."
    return run_command("finetune", about, argv, prepare, after=show_before_and_after)


def prepare(config: str, overrides: Sequence[str] = ()) -> Run:
    """The run of a recipe, with its task built from the checkpoint; ValueError where anything
    doesn't fit.
    """
    recipe = load_finetune(config, overrides)
    label = find_label(recipe)
    if recipe.freeze != "none":
        # In the recipe, so that the checkpoint says it too.
        for encoder in recipe.model.encoders.values():
            encoder.frozen = True
    torch.manual_seed(recipe.run.seed)
    found = None if recipe.init is None else Checkpoint.open(recipe.init)
    task = FinetuneTask.build(
        recipe, label.names if label else (), None if found is None else found.assets
    )
    told: list[str] = []
    if found is not None:
        load_model(task.model, found)
        told = inherit(task.head, found)
    if recipe.freeze == "model":
        task.model.requires_grad_(False)
    begin = None
    if isinstance(task.head, RecommendationHead):
        begin = partial(encode_items, task, recipe)
    return Run(recipe, task, label, evaluate_first=True, begin=begin, told=told)


def find_label(recipe: FinetuneConfig) -> Label | None:
    """What the head learns, with the names that the manifests have for it, or the ids of its
    items; None for a head without either.
    """
    items = getattr(recipe.head, "items", None)
    if isinstance(items, ItemsConfig):
        check_histories(recipe)
        return Label(HISTORY, item_ids(items, recipe.data))
    field = getattr(recipe.head, "label", None)
    if field is None:
        return None
    kind: LabelKind = getattr(recipe.head, "label_kind", "class")
    if kind == "number":
        return Label(field, [], kind)
    names: set[str] = set()
    fields: set[str] = set()
    for _, manifest, _ in recipe.data.open_sources():
        names |= set(manifest.label_names.get(field, ()))
        fields |= set(manifest.label_names)
    if not names:
        there = ", ".join(sorted(fields)) or "none"
        raise ConfigError(f"head.label = {field!r}: the data have the labels {there}")
    return Label(field, sorted(names), kind)


def show_before_and_after(run: Run) -> None:
    """A table of every score of the evaluation at step 0 and at the end."""
    rows = [r for r in read_metrics(run.folder / "metrics.jsonl") if "metric" in r]
    before = {(r["task"], r["metric"]): r for r in rows if r["step"] == 0}
    after = {(r["task"], r["metric"]): r for r in rows}
    for key, row in after.items():
        first = before.get(key)
        chance = "" if row.get("chance") is None else f"  chance {row['chance']:.4f}"
        start = "" if first is None else f"before {first['value']:.4f}  "
        print(f"{key[0]} {key[1]}: {start}after {row['value']:.4f}  n {row['n']}{chance}")
