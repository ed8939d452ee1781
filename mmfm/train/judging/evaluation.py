"""The evaluators of a recipe's section `eval`, on the model in training, or `test`, at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from mmfm import distributed
from mmfm.config import ConfigError
from mmfm.data.evaluation import EvaluationSource
from mmfm.data.manifest import Manifest
from mmfm.predictor import Predictor
from mmfm.train.judging import findings
from mmfm.train.log import RunLog, summary
from mmfm.train.recipe import EvalConfig, Recipe

Section = Literal["eval", "test"]


class Evaluation:
    """The evaluators of a section of the recipe, on a model. `left_out`: by source and reason, the
    samples that the last run could not read.
    """

    def __init__(
        self,
        recipe: Recipe,
        predictor: Predictor,
        manifests: dict[str, Manifest],
        caches: Any,
        log: RunLog,
        section: Section = "eval",
    ) -> None:
        self.predictor, self.log, self.section = predictor, log, section
        self.evaluators = build_evaluators(recipe, predictor, manifests, section)
        config: EvalConfig = getattr(recipe, section)
        self.recipe, self.page = recipe, getattr(recipe, "report", None)
        self.left_out: dict[str, dict[str, int]] = {}
        self.data = {
            name: EvaluationSource(
                name,
                manifest,
                predictor.specs,
                batch_size=config.batch_size,
                transforms=predictor.transforms,
                cache=caches,
            )
            for name, manifest in manifests.items()
        }

    def run(self, step: int) -> dict[str, list[Any]]:
        """Evaluate and log; the scores by task, on every rank; collective. ConfigError where the
        metric of `keep_best` is none of them.
        """
        found: dict[str, list[Any]] = {}
        when = f"step {step}" if self.section == "eval" else self.section
        for name, evaluator in self.evaluators.items():
            found[name] = scores = self._scores(name, evaluator, step)
            for score in scores:
                row = {"step": step, "split": self.section, "task": name, "metric": score.name}
                names = ("value", "n", "chance", "baseline", "baseline_name", "ci95")
                self.log.evaluation({**row, **{name: getattr(score, name) for name in names}})
            for line in summary(scores):
                self.log.say(f"{when}  {name}  {line}")
        self.left_out = {name: source.left_out() for name, source in self.data.items()}
        for name, reasons in self.left_out.items():
            for reason, count in reasons.items():
                self.log.say(f"{when}  warning: {count} samples of {name} are left out: {reason}")
        if self.section == "test" or not found:
            return found
        by = self.recipe.train.keep_best
        if by is not None:
            by.value_in(found)
        if self.page is not None and distributed.is_main():
            findings.prune(Path(self.recipe.run.dir), step, by)
        return found

    def _scores(self, name: str, evaluator: Any, step: int) -> list[Any]:
        """The scores of a task; for the run's page, what else it found is kept."""
        if self.page is None:
            return list(evaluator(self.predictor, self.data))
        # Mistakes of the test would be learnt from, by people.
        tested = self.section == "test"
        found = evaluator.examine(self.predictor, self.data, 0 if tested else self.page.mistakes)
        if distributed.is_main():
            findings.keep(Path(self.recipe.run.dir), None if tested else step, name, found)
        return list(found.scores)


def build_evaluators(
    recipe: Recipe,
    predictor: Predictor,
    manifests: dict[str, Manifest],
    section: Section = "eval",
) -> dict[str, Any]:
    """The evaluators by name; ConfigError where one doesn't fit the model or the sources."""
    evaluators = {}
    config: EvalConfig = getattr(recipe, section)
    for name, task in config.tasks.items():
        try:
            evaluator = task.build()
            evaluator.check_sources(manifests)
            evaluator.check_model(predictor)
        except ValueError as error:
            raise ConfigError(f"{section}.tasks.{name}: {error}") from None
        evaluators[name] = evaluator
    return evaluators


def open_manifests(recipe: Recipe, section: Section = "eval") -> dict[str, Manifest]:
    """The sources of the section; ConfigError where one can't be opened."""
    opened = {}
    config: EvalConfig = getattr(recipe, section)
    for name, source in config.sources.items():
        try:
            opened[name] = recipe.data.open(source)
        except ValueError as error:
            raise ConfigError(f"{section}.sources.{name}: {error}") from None
    return opened
