"""``mmfm finetune CONFIG --folds 5``: a run for each fold of the data, and what they say together.

Every source that is trained on is cut into folds by group (`mmfm.data.subset`); a run trains on all
folds but one. The eval tasks find that one as the source ``held_out``, with several sources that of
the first, and each as ``held_out_NAME``. The runs lie in ``run.dir/fold-0`` and so on, the scores
in ``run.dir/folds.json``. The same command goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from mmfm import distributed
from mmfm.config import ConfigError, read_yaml, to_dict
from mmfm.data.facts import read_facts, visible
from mmfm.data.manifest import Manifest
from mmfm.files import write_json
from mmfm.train.head.refit import label_kind
from mmfm.train.judging.evaluation import open_manifests
from mmfm.train.log import read_metrics
from mmfm.train.recipe import FinetuneConfig, load_finetune

RESULT = "folds.json"
HELD_OUT = "held_out"


def each_fold(config: str, overrides: Sequence[str], folds: int) -> Iterator[list[str]]:
    """The overrides of each fold's run that isn't done; each is done when the next is asked for.

    ConfigError where the recipe can't be run in folds. The test section is not looked at.
    """
    if folds < 2:
        raise ConfigError(f"--folds {folds}: at least 2 are needed")
    recipe = load_finetune(config, overrides)
    _check(recipe)
    folder = Path(recipe.run.dir)
    about = _about(config, overrides, recipe, folds)
    told = _read(folder / RESULT, about, recipe.run.dir)
    words = [fold_overrides(recipe, folds, fold) for fold in range(folds)]
    for of_fold in words:
        _check_apart(load_finetune(config, [*overrides, *of_fold]))
    for fold in range(folds):
        if str(fold) in told["runs"]:
            continue
        yield words[fold]
        if distributed.is_main():
            told["runs"][str(fold)] = scores_of(folder / f"fold-{fold}", recipe)
            write_json(folder / RESULT, {**told, "results": summary(told["runs"])})
    if distributed.is_main():
        print("\n".join(table(summary(told["runs"]))), flush=True)


def _check(recipe: FinetuneConfig) -> None:
    if recipe.replay:
        raise ConfigError(
            "--folds: replay would train on samples of every fold, which init may have been "
            "trained on: leave replay out"
        )
    tasks = {name: json.dumps(to_dict(task)) for name, task in recipe.eval.tasks.items()}
    if not any(f'"{HELD_OUT}' in text for text in tasks.values()):
        raise ConfigError(
            f"--folds: none of eval.tasks reads the source {HELD_OUT}, which is what a fold leaves "
            "out of training"
        )
    for name, source in recipe.data.sources.items():
        if source.subset is not None and source.subset.folds is not None:
            raise ConfigError(f"data.sources.{name}.subset.folds: that is what --folds sets")


def fold_overrides(recipe: FinetuneConfig, folds: int, fold: int) -> list[str]:
    """What makes the recipe that of one fold. Where the data name the head's classes, each fold has
    them equally often; a text's tags are not its classes.
    """
    words = [f"run.dir={json.dumps(f'{recipe.run.dir}/fold-{fold}')}", "test={}"]
    label = getattr(recipe.head, "label", None)
    has_classes = label_kind(recipe.head) != "tags"
    for name, manifest, _ in recipe.data.open_sources():
        source = recipe.data.sources[name]
        subset = {} if source.subset is None else to_dict(source.subset)
        if not subset.get("label") and has_classes and label in manifest.label_names:
            subset["label"] = label
        subset |= {"folds": folds, "fold": fold, "part": "train"}
        words.append(f"data.sources.{name}.subset={json.dumps(subset)}")
        place = {key: getattr(source, key) for key in ("path", "splits", "modalities")}
        held_out = json.dumps({**place, "subset": {**subset, "part": "held_out"}})
        if name == next(iter(recipe.data.sources)):
            words.append(f"eval.sources.{HELD_OUT}={held_out}")
        if len(recipe.data.sources) > 1:
            words.append(f"eval.sources.{HELD_OUT}_{name}={held_out}")
    return words


def _check_apart(recipe: FinetuneConfig) -> None:
    """ConfigError where a fold is empty, or what one source holds out has the group of what another
    trains on.
    """
    open_manifests(recipe)
    sources = recipe.data.sources
    for trained, held in permutations(sources, 2):
        place = recipe.eval.sources[f"{HELD_OUT}_{held}"]
        groups = _groups(recipe.data.open(sources[trained]))
        common = groups & _groups(recipe.data.open(place))
        if common:
            raise ConfigError(
                f"--folds: data.sources.{trained} trains on {min(common)!r}, which "
                f"data.sources.{held} holds out: name all splits in one source"
            )


def _groups(manifest: Manifest) -> set[str]:
    facts = read_facts(manifest)
    return {facts.groups[i] for i in np.flatnonzero(visible(manifest)).tolist()}


def scores_of(run: Path, recipe: FinetuneConfig) -> list[dict[str, Any]]:
    """The scores of a finished run's evaluation: those of its best step with `train.keep_best`,
    else of its last.
    """
    rows = [r for r in read_metrics(run / "metrics.jsonl") if r.get("split") == "eval"]
    step, wanted = max(row["step"] for row in rows), recipe.train.keep_best
    if wanted is not None:
        step = wanted.best_step(wanted.values_by_step(rows)) or step
    last = {(r["task"], r["metric"]): r for r in rows if r["step"] == step}
    keys = ("step", "task", "metric", "value", "n")
    return [{key: row[key] for key in keys} for row in last.values()]


def summary(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """For each score its values by fold, their mean, their standard deviation (of a sample) and the
    95 % interval of the mean by Student's t, which takes the folds for independent.
    """
    values: dict[tuple[str, str], list[float]] = {}
    for fold in sorted(runs, key=int):
        for row in runs[fold]:
            values.setdefault((row["task"], row["metric"]), []).append(row["value"])
    found = []
    for (task, metric), of_folds in values.items():
        k, mean = len(of_folds), float(np.mean(of_folds))
        std = interval = None
        if k > 1:
            std = float(np.std(of_folds, ddof=1))
            half = float(stdtrit(k - 1, 0.975)) * std / k**0.5
            interval = [mean - half, mean + half]
        told = {"values": of_folds, "mean": mean, "std": std, "ci95": interval}
        found.append({"task": task, "metric": metric, **told})
    return found


def table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The summary, a line for each score."""
    lines = [f"{'over folds':<40}{'mean':>9}{'std':>9}   95 %                 folds"]
    for row in results:
        low, high = row["ci95"] or (float("nan"), float("nan"))
        lines.append(
            f"{row['task'] + ' ' + row['metric']:<40}{row['mean']:>9.4f}{row['std'] or 0:>9.4f}   "
            f"{low:.4f} to {high:.4f}   {' '.join(f'{value:.4f}' for value in row['values'])}"
        )
    return lines


def _about(
    config: str, overrides: Sequence[str], recipe: FinetuneConfig, folds: int
) -> dict[str, Any]:
    """What must be the same for all folds; of `run` that is the seed."""
    raw = {**read_yaml(config, overrides), "run": {"seed": recipe.run.seed}, "test": None}
    text = json.dumps(raw, sort_keys=True, default=str)
    return {"folds": folds, "recipe_sha256": hashlib.sha256(text.encode()).hexdigest()}


def _read(path: Path, about: Mapping[str, Any], folder: str) -> dict[str, Any]:
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else about
    if {key: told[key] for key in about} != about:
        raise ConfigError(
            f"run.dir = {folder} holds {told['folds']} folds of another recipe: name another one"
        )
    return {**about, "runs": told.get("runs", {})}
