"""What pretraining and fine-tuning share: from a run that is set up to one that is done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmfm import checkpoint, distributed
from mmfm.checkpoint import Checkpoint
from mmfm.config import ConfigError, dump, to_dict
from mmfm.data.feature_cache import FeatureCache
from mmfm.data.manifest import Manifest
from mmfm.data.pipeline import Pipeline
from mmfm.feature_caching import open_caches
from mmfm.files import write_text
from mmfm.layers.batch_norms import trains_norms
from mmfm.predictor import Predictor
from mmfm.train.judging.best import Patience
from mmfm.train.judging.evaluation import Evaluation, build_evaluators, open_manifests
from mmfm.train.judging.final_test import check_test, look_once
from mmfm.train.log import RunLog, environment, report
from mmfm.train.log.trackers import find_trackers
from mmfm.train.mining import negatives_of, tell_negatives
from mmfm.train.optim import frozen_until, groups_of, maker
from mmfm.train.optim.groups import check_freeze, freeze_parts
from mmfm.train.resume import check_resume, restored
from mmfm.train.run import Run
from mmfm.train.saving import Saver, check_keep_best
from mmfm.train.signals import StopSignals
from mmfm.train.steps import Ending, Steps, together
from mmfm.train.trainer import Trainer
from mmfm.weights import load_task


def check(run: Run, found: Checkpoint | None, pipeline: Pipeline) -> None:
    """All that can be checked before the start; puts the checkpoint's weights into the task."""
    if found is not None:
        check_resume(found, pipeline)
        load_task(run.task, found)
    recipe = run.recipe
    check_freeze(run.task, recipe.optim.freeze)
    until = frozen_until(run.task, recipe.optim)
    freeze_parts(run.task, until, 0 if found is None else found.step)
    groups_of(run.task, recipe.optim)
    _check_norms(run)
    maker(recipe.optim)
    checkpoint.check_writable(run.folder)
    check_keep_best(recipe)
    find_trackers(recipe.run.trackers)
    predictor = Predictor(run.task, run.label)
    build_evaluators(recipe, predictor, open_manifests(recipe))
    check_test(run, predictor, found)


def _check_norms(run: Run) -> None:
    """ConfigError where batch norms train beside what knows weights only."""
    asked = {
        "optim.ema averages weights, not the statistics of batch norms": run.recipe.optim.ema,
        "train.recompute_activations would measure each batch norm twice": (
            run.recipe.train.recompute_activations
        ),
    }
    for why, wanted in asked.items():
        if wanted and trains_norms(run.task):
            raise ConfigError(f"batch_norm_size: {why}; leave one of them out")


def train(run: Run, found: Checkpoint | None) -> Ending:
    """Train to the end, to where a rank is asked to stop, to where a part of the model begins to
    train, or to where hard negatives are searched anew; collective, in a started process group.

    ZeRO would ignore what becomes trainable later, and the workers know one table of negatives:
    after "thaws" and "mines" a run that is prepared anew must go on from the checkpoint that is
    written.

    `check` has passed, and has put the checkpoint's weights into the task.
    """
    recipe = run.recipe
    sources = [(name, manifest) for name, manifest, _ in recipe.data.open_sources()]
    eval_manifests = open_manifests(recipe)
    caches = _filled_caches(run, sources, eval_manifests)
    if run.begin is not None and found is None:
        run.begin()
    weights = run.weights()  # ZeRO-3 would leave none to count
    going_on = found is None or found.step < recipe.train.max_steps
    negatives = negatives_of(run, found, sources, caches) if going_on else None
    pipeline = run.pipeline(
        distributed.world_size(),
        samples_seen=0 if found is None else found.samples_seen,
        cache=caches,
        raw=run.task.raw,
        negatives=None if negatives is None else negatives.table,
        quarantine=run.folder / "quarantine.jsonl",
    )
    trainer = Trainer(
        run.task,
        recipe.train,
        recipe.optim,
        global_batch_size=recipe.data.global_batch_size,
        seed=recipe.run.seed,
        deepspeed=recipe.deepspeed,
    )
    stop = StopSignals(tell=distributed.is_main())
    steps = together(iter(pipeline), stop)
    start = 0 if found is None else found.step
    patience = Patience(recipe.train.patience, recipe.train.keep_best, run.folder, start)
    done = start >= recipe.train.max_steps or patience.over
    if found is not None:
        if not done:
            steps = restored(trainer, found, steps)
        trainer.step_index = found.step
    log = _open_log(run)
    try:
        _tell_settings(run, weights)
        predictor = Predictor(
            run.task, run.label, forward=trainer.engine, transforms=recipe.data.transforms
        )
        evaluation = Evaluation(recipe, predictor, eval_manifests, caches, log)
        for line in run.warnings(pipeline):
            log.say(f"warning: {line}")
        _tell_start(run, found, done, evaluation, log)
        if negatives is not None:
            tell_negatives(negatives, log)
        saver = Saver(run, trainer, pipeline, None if found is None else found.step)
        ending = Steps(run, trainer, pipeline, steps, evaluation, saver, patience, log).run(stop)
        if ending == "done":
            _tell_best(run, log)
            look_once(run, log)
    finally:
        log.close()
    if ending in ("thaws", "mines"):
        trainer.engine.destroy()
    elif distributed.is_main():
        page = getattr(run.recipe, "report", None)
        (report if page is None else page).write(run.folder)
    return ending


def _filled_caches(
    run: Run, sources: Sequence[tuple[str, Manifest]], evaluated: Mapping[str, Manifest]
) -> dict[str, FeatureCache]:
    """The feature caches with all samples in them."""
    model, transforms = run.task.model, run.recipe.data.transforms
    folder = Path(run.recipe.run.feature_cache)
    open_caches(model, sources, folder, transforms=transforms, train=True)
    # The same caches, opened when all is in them.
    return open_caches(model, [*evaluated.items()], folder, transforms=transforms, train=False)


def _open_log(run: Run) -> RunLog:
    recipe, trackers = run.recipe, []
    if distributed.is_main():
        run.folder.mkdir(parents=True, exist_ok=True)
        plain = to_dict(recipe)
        trackers = [made(run.folder, plain) for made in find_trackers(recipe.run.trackers)]
    return RunLog(run.folder, distributed.is_main(), recipe.train.max_steps, trackers)


def _tell_best(run: Run, log: RunLog) -> None:
    best = checkpoint.best(run.checkpoints) if run.recipe.train.keep_best is not None else None
    if best is not None:
        log.say(
            f"the best checkpoint is {run.checkpoints / 'best'}: {best['checkpoint']}, "
            f"{best['task']} {best['metric']} {best['value']:.4f}"
        )


def _tell_settings(run: Run, weights: dict[str, int]) -> None:
    if distributed.is_main():
        about = {**environment(), "weights": weights}
        write_text(run.folder / "config.yaml", dump(run.recipe).rstrip())
        write_text(run.folder / "environment.json", json.dumps(about, indent=1))


def _tell_start(
    run: Run, found: Checkpoint | None, done: bool, evaluation: Evaluation, log: RunLog
) -> None:
    if found is None:
        for line in run.notes:
            log.say(line)
        if run.evaluate_first:
            evaluation.run(0)
    elif not done:
        log.event("resume", step=found.step)
        log.say(f"continuing from {found.path.name} at step {found.step}")
    else:
        log.say(f"{run.folder}: done already ({found.step} steps)")
