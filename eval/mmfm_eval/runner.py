"""Runs a suite on a checkpoint: open everything, encode, score, compute the baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from mmfm import distributed
from mmfm.checkpoint import Checkpoint, sha256
from mmfm.data.manifest import Manifest
from mmfm.predictor import Predictor, load, untrained
from mmfm_eval.pixels import PixelPredictor
from mmfm_eval.readings import Reading, encode_readings, passes
from mmfm_eval.results import Results, protocol
from mmfm_eval.sources import Source
from mmfm_eval.suite import SuiteConfig
from mmfm_eval.tasks.base import AgreedError, Evaluator, Score, on_main, with_baseline

T = TypeVar("T")

BASELINE_NAMES = {"untrained": "untrained network", "pixels": "nearest pixels"}


@dataclass
class Plan:
    """A suite with its data and its model open: nothing has run yet."""

    suite: SuiteConfig
    evaluators: dict[str, Evaluator]
    manifests: dict[str, Manifest]
    predictor: Predictor
    data: dict[str, Source]

    def describe(self) -> str:
        """What would run, for people."""
        lines = [f"suite {self.suite.name}: {len(self.evaluators)} tasks"]
        for name, manifest in self.manifests.items():
            lines.append(f"  source {name}: {len(manifest):,} samples")
        for number, reading in enumerate(passes(_readings(self.evaluators)), 1):
            what = "head" if reading.logits else " + ".join(reading.modalities)
            lines.append(f"  pass {number}: {reading.source}, {what}{', fused' * reading.fused}")
        return "\n".join(lines)


def prepare(suite: SuiteConfig, checkpoint: Checkpoint, device: str | None) -> Plan:
    """Open all that the suite needs; ValueError, the same on every rank, where something is
    missing.
    """
    return agreed(lambda: _prepare(suite, checkpoint, device))


def run(plan: Plan, checkpoint: Checkpoint) -> Results:
    """The results of the suite. Collective; every rank gets them."""
    found = encode_readings(plan.predictor, plan.data, _readings(plan.evaluators))
    scores: dict[str, list[Score]] = {}
    details: dict[str, dict[str, Any]] = {}
    for name, evaluator in plan.evaluators.items():
        with _naming(name):
            scores[name], details[name] = on_main(partial(_judge, evaluator, found))
    for kind in BASELINE_NAMES:
        _add_baseline(kind, plan, scores)
    return Results(
        model=_describe_model(plan.predictor, checkpoint),
        suite=plan.suite.name,
        protocol=protocol(
            plan.suite,
            checkpoint_sha256=sha256(checkpoint.path / "manifest.json"),
            digests={name: m.digest() for name, m in plan.manifests.items()},
            specs=plan.predictor.specs,
            device=str(plan.predictor.device.type),
        ),
        scores=scores,
        details=details,
        left_out={name: source.left_out() for name, source in plan.data.items()},
    )


def agreed(step: Callable[[], T]) -> T:
    """`step()` on every rank; where it fails on any, the first ValueError is raised on all."""
    problem: str | None = None
    try:
        result = step()
    except (ValueError, OSError) as error:
        problem = str(error)
    problems = [p for p in distributed.all_gather_object(problem) if p is not None]
    if problems:
        raise AgreedError(problems[0])
    return result


def _prepare(suite: SuiteConfig, checkpoint: Checkpoint, device: str | None) -> Plan:
    evaluators: dict[str, Evaluator] = {}
    for name, task in suite.tasks.items():
        with _naming(name):
            evaluators[name] = task.build()
            evaluators[name].seed = suite.seed
            evaluators[name].check_sources(suite.sources)
    manifests = {}
    for name, source in suite.sources.items():
        try:
            manifests[name] = Manifest.open(source.path, source.splits)
        except ValueError as error:
            raise ValueError(f"sources.{name}: {error}") from None
    predictor = load(checkpoint.path, device)
    for name, evaluator in evaluators.items():
        with _naming(name):
            evaluator.check_model(predictor)
    data = {
        name: Source(
            name, manifest, predictor.specs, batch_size=suite.batch_size, workers=suite.workers
        )
        for name, manifest in manifests.items()
    }
    return Plan(suite, evaluators, manifests, predictor, data)


@contextmanager
def _naming(task: str) -> Iterator[None]:
    """Errors in here say which task it was."""
    try:
        yield
    except ValueError as error:
        kind = AgreedError if isinstance(error, AgreedError) else ValueError
        raise kind(f"tasks.{task}: {error}") from None


def _judge(
    evaluator: Evaluator, found: Mapping[Reading, Any]
) -> tuple[list[Score], dict[str, Any]]:
    return list(evaluator.score(found)), evaluator.details(found)


def _readings(evaluators: Mapping[str, Evaluator]) -> list[Reading]:
    return [reading for evaluator in evaluators.values() for reading in evaluator.readings]


def _add_baseline(kind: str, plan: Plan, scores: dict[str, list[Score]]) -> None:
    """Put the scores of the baseline `kind` beside those of the tasks that ask for it."""
    wanting = {name: e for name, e in plan.evaluators.items() if e.baseline == kind}
    if not wanting:
        return
    other = (
        PixelPredictor(plan.predictor.specs)
        if kind == "pixels"
        else untrained(plan.predictor, plan.suite.seed)
    )
    found = encode_readings(other, plan.data, _readings(wanting))
    for name, evaluator in wanting.items():
        with _naming(name):
            reached, _ = on_main(partial(_judge, evaluator, found))
        scores[name] = with_baseline(scores[name], reached, BASELINE_NAMES[kind])


def _describe_model(predictor: Predictor, checkpoint: Checkpoint) -> dict[str, Any]:
    model = predictor.model
    return {
        "checkpoint": str(checkpoint.path),
        "step": checkpoint.step,
        "samples_seen": checkpoint.samples_seen,
        "modalities": list(predictor.specs),
        "head": None if predictor.head is None else type(predictor.head).__name__,
        "embed_dim": int(model.embed_dim),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
