"""The evaluators of a recipe's `eval` section, run on the model in training."""

from __future__ import annotations

from typing import Any

from mmfm.config import ConfigError
from mmfm.data.evaluation import EvaluationSource
from mmfm.data.manifest import Manifest
from mmfm.predictor import Predictor
from mmfm.train.log import RunLog, summary
from mmfm.train.recipe import Recipe


class Evaluation:
    """The evaluators of the recipe's `eval` section, on the model in training."""

    def __init__(
        self,
        recipe: Recipe,
        predictor: Predictor,
        manifests: dict[str, Manifest],
        caches: Any,
        log: RunLog,
    ) -> None:
        self.predictor, self.log = predictor, log
        self.evaluators = build_evaluators(recipe, predictor, manifests)
        self.data = {
            name: EvaluationSource(
                name,
                manifest,
                predictor.specs,
                batch_size=recipe.eval.batch_size,
                transforms=predictor.transforms,
                cache=caches,
            )
            for name, manifest in manifests.items()
        }

    def run(self, step: int) -> dict[str, list[Any]]:
        """Evaluate and log; the scores by task, on every rank; collective."""
        found = {}
        for name, evaluator in self.evaluators.items():
            found[name] = scores = evaluator(self.predictor, self.data)
            for score in scores:
                row = {"step": step, "split": "eval", "task": name, "metric": score.name}
                beside = {"chance": score.chance, "baseline": score.baseline, "ci95": score.ci95}
                self.log.evaluation({**row, "value": score.value, "n": score.n, **beside})
            for line in summary(scores):
                self.log.say(f"step {step}  {name}  {line}")
        return found


def build_evaluators(
    recipe: Recipe, predictor: Predictor, manifests: dict[str, Manifest]
) -> dict[str, Any]:
    """The evaluators by name; ConfigError where one doesn't fit the model or the sources."""
    evaluators = {}
    for name, task in recipe.eval.tasks.items():
        try:
            evaluator = task.build()
            evaluator.check_sources(manifests)
            evaluator.check_model(predictor)
        except ValueError as error:
            raise ConfigError(f"eval.tasks.{name}: {error}") from None
        evaluators[name] = evaluator
    return evaluators


def open_manifests(recipe: Recipe) -> dict[str, Manifest]:
    """The sources of the evaluation; ConfigError where one can't be opened."""
    opened = {}
    for name, source in recipe.eval.sources.items():
        try:
            opened[name] = recipe.data.open(source)
        except ValueError as error:
            raise ConfigError(f"eval.sources.{name}: {error}") from None
    return opened
