"""What a search has found: the best settings, a recipe with them, which settings mattered."""

from __future__ import annotations

import json
import shlex
import warnings
from pathlib import Path

import optuna
import yaml
from optuna.importance import get_param_importances
from optuna.trial import FrozenTrial, TrialState

from mmfm.files import write_text
from mmfm.tune.space import Settings, as_overrides
from mmfm.tune.study import Trials

WIDTH = 30
"""Characters of the longest bar."""


def importances(study: optuna.Study) -> dict[str, float]:
    """How much of the scores' variance each setting explains, largest first (functional ANOVA,
    Hutter et al. 2014); {} where too few trials are complete to say.
    """
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < 4 or len({trial.value for trial in done}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dict(get_param_importances(study, evaluator=evaluator))
    except (ValueError, RuntimeError):  # no setting is in all trials, or none varies
        return {}


def short(settings: Settings) -> str:
    """The settings on one line."""
    return "  ".join(f"{name}={_number(value)}" for name, value in settings.items())


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def write_best(trials: Trials, best: FrozenTrial) -> Path:
    """``best.yaml``: the recipe with the best settings, its test section and a run of its own."""
    search = trials.search
    settings = trials.settings_of(best)
    run = {**search.recipe["run"], "dir": str(search.folder / "best")}
    raw = search.with_settings(settings, run=run)
    by, path = search.by, search.folder / "best.yaml"
    head = (
        f"# Trial {best.number} of {search.folder}: {by.task} {by.metric} {best.value:.4f}.\n"
        f"#   mmfm {search.command} {path}\n"
    )
    text = yaml.safe_dump(raw, sort_keys=False, allow_unicode=True).rstrip()
    write_text(path, head + text)
    return path


def report(trials: Trials) -> list[str]:
    """The lines that are shown at the end."""
    states = [trial.state for trial in trials.counted()]
    counts = ", ".join(
        f"{states.count(state)} {name}"
        for state, name in (
            (TrialState.COMPLETE, "complete"),
            (TrialState.PRUNED, "pruned"),
            (TrialState.FAIL, "failed"),
            (TrialState.RUNNING, "running"),
        )
        if state in states
    )
    lines = [f"{len(states)} trials: {counts or 'none'}"]
    best = trials.best()
    if best is None:
        return lines
    by, settings = trials.search.by, trials.settings_of(best)
    lines.append(
        f"best: {by.task} {by.metric} {best.value:.4f}, trial {best.number} "
        f"({trials.folder / best.user_attrs['folder']})"
    )
    lines += [f"  {shlex.quote(word)}" for word in as_overrides(settings)]
    found = importances(trials.study)
    if found:
        lines.append("what explains the scores:")
        longest = max(map(len, found))
        lines += [
            f"  {name:<{longest}}  {'█' * round(WIDTH * share)}{' ' if share else ''}{share:.2f}"
            for name, share in found.items()
        ]
    return lines
