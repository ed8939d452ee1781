"""The command `mmfm finetune`: a head on a pretrained model, with its scores before and after.

mmfm finetune configs/finetune/quickstart.yaml init=runs/quickstart freeze=encoders
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from mmfm import checkpoint
from mmfm.checkpoint import Checkpoint
from mmfm.config import ConfigError
from mmfm.heads.recommendation import HISTORY, ItemsConfig, RecommendationHead
from mmfm.lora import described
from mmfm.task import FinetuneTask
from mmfm.train.command import main as run_command
from mmfm.train.folds import each_fold
from mmfm.train.head.inherit import inherit
from mmfm.train.head.items import check_histories, encode_items, item_ids
from mmfm.train.head.refit import HeadBefore, head_before, join_replay, label_kind, take_head
from mmfm.train.head.targets import check_classes, settle_head
from mmfm.train.log import read_metrics
from mmfm.train.recipe import FinetuneConfig, load_finetune
from mmfm.train.run import Run
from mmfm.types import Label
from mmfm.weights import load_model


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    about = "Fine-tune a model with a head; shows the scores before and after."
    return run_command("finetune", about, argv, prepare, show_before_and_after, each_fold)


def prepare(config: str, overrides: Sequence[str] = ()) -> Run:
    """The run of a recipe, with its task built from the checkpoint; ValueError where anything
    doesn't fit.
    """
    recipe = load_finetune(config, overrides)
    found = None if recipe.init is None else Checkpoint.open(recipe.init)
    join_replay(recipe, found)
    before = head_before(recipe, found)
    label = find_label(recipe, _known_names(recipe, before))
    if recipe.teacher is None:  # which teaches without labels too
        check_classes(recipe, label)
    settle_head(recipe, label)
    if recipe.freeze != "none":
        # In the recipe, so that the checkpoint says it too.
        for encoder in recipe.model.encoders.values():
            encoder.freeze()
    torch.manual_seed(recipe.run.seed)
    task = FinetuneTask.build(
        recipe, label.names if label else (), None if found is None else found.assets
    )
    if found is not None:
        load_model(task.model, found)
    if recipe.freeze == "model":
        task.model.requires_grad_(False)
    begin = None
    if isinstance(task.head, RecommendationHead):
        begin = partial(encode_items, task, recipe)
    notes = [f"head      {take_head(task, before)}"]
    if found is not None and recipe.init_head != "never":
        notes += [f"head      {line}" for line in inherit(task.head, found)]
    notes += [f"lora      {line}" for line in described(task.model)]
    return Run(recipe, task, label, evaluate_first=True, begin=begin, notes=notes)


def find_label(recipe: FinetuneConfig, known: Sequence[str] = ()) -> Label | None:
    """What the head learns, with the `known` names and behind them those that the manifests have
    for it besides, or the ids of its items; None for a head without either. ConfigError where there
    is no name.
    """
    items = getattr(recipe.head, "items", None)
    if isinstance(items, ItemsConfig):
        check_histories(recipe)
        return Label(HISTORY, item_ids(items, recipe.data), "items")
    field = getattr(recipe.head, "label", None)
    if field is None:
        return None
    kind = label_kind(recipe.head)
    if kind == "number":
        return Label(field, [], kind)
    names: set[str] = set()
    fields: set[str] = set()
    for _, manifest, _ in recipe.data.open_sources():
        names |= set(manifest.label_names.get(field, ()))
        fields |= set(manifest.label_names)
    if not names and not known:
        there = ", ".join(sorted(fields)) or "none"
        raise ConfigError(f"head.label = {field!r}: the data have the labels {there}")
    return Label(field, [*known, *sorted(names - set(known))], kind)


def _known_names(recipe: FinetuneConfig, before: HeadBefore | str | None) -> Sequence[str]:
    """Those of the head that goes on, or else of the teacher's."""
    if isinstance(before, HeadBefore):
        return before.names
    if recipe.teacher is None:
        return ()
    told = Checkpoint.open(recipe.teacher.path).preprocessing["label"]
    return Label(*told).names if told else ()


def show_before_and_after(run: Run) -> None:
    """Every score of the evaluation at step 0 and at the end, or of the best step where that is
    kept; below them the tables of the report.
    """
    kept = run.recipe.train.keep_best is not None
    best = checkpoint.best(run.checkpoints) if kept else None
    rows = [r for r in read_metrics(run.folder / "metrics.jsonl") if r.get("split") == "eval"]
    before = {(r["task"], r["metric"]): r for r in rows if r["step"] == 0}
    last = {(r["task"], r["metric"]): r for r in rows}
    after = {(r["task"], r["metric"]): r for r in rows if best and r["step"] == best["step"]}
    if best is not None and after:
        print(f"after: step {best['step']}, the best by {best['task']} {best['metric']}")
    for key, row in (after or last).items():
        first = before.get(key)
        start = "" if first is None else f"before {first['value']:.4f}  "
        chance = "" if row.get("chance") is None else f"  chance {row['chance']:.4f}"
        reached = row.get("baseline")
        name = row.get("baseline_name") or "baseline"
        baseline = "" if reached is None else f"  {name} {reached:.4f}"
        print(f"{key[0]} {key[1]}: {start}after {row['value']:.4f}  n {row['n']}{chance}{baseline}")
    page = getattr(run.recipe, "report", None)
    for line in page.lines(run.folder) if page is not None else ():
        print(line)
