"""The section `test` of a recipe: looked at once, when the run is done, by its best checkpoint.

    test:
      sources: {unseen_art: {path: data/emoji, splits: [pictures-twemoji]}}
      tasks: {art: {type: classification, source: unseen_art}}

The scores go to metrics.jsonl with split "test" and to `test.json` in the run's folder. While that
is there, the run looks at what it says, and not at the samples another time. A sample that was
trained on is none to be tested with: such a source is refused, also where a checkpoint that the run
begins with or learns from was fine-tuned on it; where one was pretrained on it, a warning says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmfm import checkpoint, distributed
from mmfm.checkpoint import Checkpoint, Weights
from mmfm.config import ConfigError, to_dict
from mmfm.data.manifest import Manifest
from mmfm.data.overlap import common_sample
from mmfm.feature_caching import open_caches
from mmfm.files import write_json
from mmfm.predictor import Predictor, load
from mmfm.train.judging.evaluation import Evaluation, build_evaluators, open_manifests
from mmfm.train.judging.lineage import seen_before
from mmfm.train.log import RunLog
from mmfm.train.recipe import Recipe
from mmfm.train.run import Run

TEST = "test.json"
IDS = (
    "(Ids that mmfm data made are a file's name and its row: if the samples differ, give them ids "
    "of your own.)"
)


def check_test(run: Run, predictor: Predictor, found: Checkpoint | None) -> None:
    """Put into ``run.seen_before`` what the run's weights have seen of the test, or may have.

    ConfigError where a task doesn't fit the model, or a source holds what was trained on with
    labels: here, or by what the run begins with or learns from. A test that was looked at already
    stays.
    """
    recipe = run.recipe
    build_evaluators(recipe, predictor, open_manifests(recipe, "test"), "test")
    tested = _held_out(recipe)
    for name, manifest in tested.items():
        for source, trained, _ in recipe.data.open_sources():
            common = common_sample(manifest, trained)
            if common is not None:
                raise ConfigError(
                    f"test.sources.{name} shares samples with data.sources.{source}, {common!r} "
                    "among them: name other splits, or the held_out part of the same subset. " + IDS
                )
    seen = seen_before(recipe, tested, found)
    run.seen_before = [one.told() for one in seen]
    labelled = [one for one in seen if one.labelled]
    if labelled and not (run.folder / TEST).is_file():
        raise ConfigError(
            f"{labelled[0].told()}: test with other samples, or begin with and learn from other "
            f"checkpoints. {IDS}"
        )


def _held_out(recipe: Recipe) -> dict[str, Manifest]:
    """The sources of the test that nothing may have been trained on.

    Not among them: one that tasks learn from (their `train`) and none is judged on, and the
    histories of a recommendation head, which are cut in time and not by sample.
    """
    if getattr(getattr(recipe, "head", None), "items", None) is not None:
        return {}
    tasks = [to_dict(task) for task in recipe.test.tasks.values()]
    learned_from = {task.pop("train", None) for task in tasks}
    judged_on = {word for task in tasks for word in _words(task)}
    return {
        name: manifest
        for name, manifest in open_manifests(recipe, "test").items()
        if name in judged_on or name not in learned_from
    }


def _words(settings: Any) -> Iterator[str]:
    """The texts in nested settings, names of sources among them."""
    if isinstance(settings, str):
        yield settings
    elif isinstance(settings, dict | list | tuple):
        for value in settings.values() if isinstance(settings, dict) else settings:
            yield from _words(value)


def handed_out(run: Run) -> Path | None:
    """The checkpoint that a finished run hands out: with `train.keep_best` the best one, else the
    last; None where none was written.
    """
    if run.recipe.train.keep_best is not None:
        best = checkpoint.best(run.checkpoints)
        if best is not None:
            return run.checkpoints / str(best["checkpoint"])
    return checkpoint.latest(run.checkpoints)


def look_once(run: Run, log: RunLog) -> None:
    """Run the tasks of `test`, unless that was done; collective, when the run is done."""
    if not run.recipe.test.tasks:
        return
    told, path = distributed.broadcast_object((_told(run.folder), handed_out(run)))
    assert path is not None
    if told is not None:
        _show(told, path.name, run.folder, log)
        return
    average = run.recipe.optim.ema
    # What chose the checkpoint is what is tested.
    weights: Weights = "ema" if average is not None and average.evaluate else "model"
    predictor = load(path / weights if weights == "ema" else path)
    manifests = open_manifests(run.recipe, "test")
    caches = open_caches(
        predictor.model,
        list(manifests.items()),
        Path(run.recipe.run.feature_cache),
        transforms=predictor.transforms,
        train=False,
    )
    step = Checkpoint.open(path, verify=False).step
    log.say(f"test, looked at once, with {path}:")
    evaluation = Evaluation(run.recipe, predictor, manifests, caches, log, "test")
    scores = evaluation.run(step)
    rows = [
        {"task": task, "metric": score.name, **_plain(score)}
        for task, of_task in scores.items()
        for score in of_task
    ]
    if distributed.is_main():
        about = {"checkpoint": path.name, "step": step, "weights": weights}
        left_out = {source: found for source, found in evaluation.left_out.items() if found}
        more = {"left_out": left_out, "seen_before": run.seen_before}
        write_json(run.folder / TEST, {**about, "results": rows, **more})


def _plain(score: Any) -> dict[str, Any]:
    names = ("value", "n", "ci95", "chance", "baseline", "baseline_name")
    return {name: getattr(score, name) for name in names}


def _told(folder: Path) -> dict[str, Any] | None:
    path = folder / TEST
    if not (distributed.is_main() and path.is_file()):
        return None
    told = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(told, dict)
    return told


def _show(told: dict[str, Any], now: str, folder: Path, log: RunLog) -> None:
    log.say(f"test was looked at already, with {told['checkpoint']} ({folder / TEST}):")
    for row in told["results"]:
        chance = "" if row["chance"] is None else f" (chance {row['chance']:.4f})"
        log.say(f"test  {row['task']}  {row['metric']} {row['value']:.4f}{chance}  n {row['n']}")
    if told["checkpoint"] != now:
        log.say(f"warning: the run now hands out {now}, which was not tested")
