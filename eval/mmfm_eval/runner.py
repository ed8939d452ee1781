"""Runs a suite on a checkpoint: open everything, encode, score, compute the baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from mmfm import distributed
from mmfm.checkpoint import Checkpoint
from mmfm.data.evaluation import EvaluationSource
from mmfm.data.feature_cache import FeatureCache
from mmfm.data.manifest import Manifest
from mmfm.data.subset import subset_of
from mmfm.feature_caching import open_caches
from mmfm.files import sha256
from mmfm.predictor import Predictor, load, transforms_of, untrained
from mmfm_eval.pixels import PixelPredictor
from mmfm_eval.readings import Reading, encode_readings, passes
from mmfm_eval.results import Results, protocol
from mmfm_eval.suite import SuiteConfig
from mmfm_eval.tasks.base import AgreedError, Evaluator, Score, on_main, with_baseline

T = TypeVar("T")

BASELINE_NAMES = {"untrained": "untrained network", "pixels": "nearest pixels"}


@dataclass
class Plan:
    """A suite with its manifests and its model open: nothing has run yet."""

    suite: SuiteConfig
    evaluators: dict[str, Evaluator]
    manifests: dict[str, Manifest]
    predictor: Predictor

    def describe(self) -> str:
        """What would run, for people."""
        lines = [f"suite {self.suite.name}: {len(self.evaluators)} tasks"]
        for name, manifest in self.manifests.items():
            lines.append(f"  source {name}: {len(manifest):,} samples")
        for number, reading in enumerate(passes(_readings(self.evaluators)), 1):
            lines.append(f"  pass {number}: {reading}")
        return "\n".join(lines)

    def sources(self, cache: Mapping[str, FeatureCache] | None) -> dict[str, EvaluationSource]:
        """The data; with `cache` the outputs of frozen encoders stand in for their inputs."""
        return {
            name: EvaluationSource(
                name,
                manifest,
                self.predictor.specs,
                batch_size=self.suite.batch_size,
                workers=self.suite.workers,
                transforms=self.predictor.transforms,
                cache=cache,
            )
            for name, manifest in self.manifests.items()
        }


def prepare(suite: SuiteConfig, checkpoint: Checkpoint, device: str | None) -> Plan:
    """Open all that the suite needs; ValueError, the same on every rank, where something is
    missing.
    """
    return agreed(lambda: _prepare(suite, checkpoint, device))


def run(plan: Plan, checkpoint: Checkpoint, say: Callable[[str], None]) -> Results:
    """The results of the suite. Collective; every rank gets them. `say` hears what is going on."""
    folder = Path(plan.suite.feature_cache)
    device = plan.predictor.device
    cache = open_caches(
        plan.predictor.model,
        list(plan.manifests.items()),
        folder,
        transforms=plan.predictor.transforms,
        train=False,
    )
    plan.predictor.task.to(device)
    data = plan.sources(cache)
    found = encode_readings(plan.predictor, data, _readings(plan.evaluators), say)
    scores: dict[str, list[Score]] = {}
    details: dict[str, dict[str, Any]] = {}
    for name, evaluator in plan.evaluators.items():
        with _naming(name):
            scores[name], details[name] = on_main(partial(_judge, evaluator, found))
    for kind in BASELINE_NAMES:
        wanting = {name: e for name, e in plan.evaluators.items() if e.baseline == kind}
        if not wanting:
            continue
        say(f"baseline: {BASELINE_NAMES[kind]}")
        baseline: Predictor | PixelPredictor
        if kind == "pixels":  # needs the pictures themselves
            baseline, its_data = PixelPredictor(plan.predictor.specs), plan.sources(None)
        else:
            baseline, its_data = untrained(plan.predictor, plan.suite.seed), data
        reached = encode_readings(baseline, its_data, _readings(wanting), say)
        for name, evaluator in wanting.items():
            with _naming(name):
                theirs, _ = on_main(partial(_judge, evaluator, reached))
            scores[name] = with_baseline(scores[name], theirs, BASELINE_NAMES[kind])
    return Results(
        model=_describe_model(plan.predictor, checkpoint),
        suite=plan.suite.name,
        protocol=the_protocol(plan.suite, checkpoint, plan.manifests, device),
        scores=scores,
        details=details,
        left_out={name: source.left_out() for name, source in data.items()},
    )


def the_protocol(
    suite: SuiteConfig,
    checkpoint: Checkpoint,
    manifests: Mapping[str, Manifest],
    device: torch.device,
) -> dict[str, Any]:
    """The protocol of `suite` on `checkpoint`, known before anything has run."""
    return protocol(
        suite,
        checkpoint_sha256=sha256(checkpoint.path / "manifest.json"),
        digests={name: m.digest() for name, m in manifests.items()},
        weights=checkpoint.weights,
        preprocessing=checkpoint.preprocessing,
        device=str(device.type),
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
    manifests = open_sources(suite, checkpoint)
    predictor = load(checkpoint.named, device_named(device))
    for name, evaluator in evaluators.items():
        with _naming(name):
            evaluator.check_model(predictor)
    return Plan(suite, evaluators, manifests, predictor)


def open_sources(suite: SuiteConfig, checkpoint: Checkpoint) -> dict[str, Manifest]:
    """The shards of each source, as the checkpoint reads them; ValueError that names the source
    where there are none.
    """
    manifests, transforms = {}, transforms_of(checkpoint)
    for name, source in suite.sources.items():
        try:
            opened = Manifest.open(
                source.path,
                source.splits,
                source.modalities,
                suite.cache,
                suite.remote,
                transforms,
            )
            manifests[name] = subset_of(opened, source.subset) if source.subset else opened
        except ValueError as error:
            raise ValueError(f"sources.{name}: {error}") from None
    return manifests


def device_named(name: str | None) -> torch.device:
    """The device of that name; without one, and for "cuda", this rank's own."""
    try:
        device = distributed.device() if name in (None, "cuda") else torch.device(str(name))
    except RuntimeError:
        raise ValueError(f"--device {name}: say cpu, cuda or cuda:N") from None
    if str(name).startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: this machine has no GPU that torch can use")
    return device


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


def _describe_model(predictor: Predictor, checkpoint: Checkpoint) -> dict[str, Any]:
    model, path, here = predictor.model, checkpoint.named, Path.cwd()
    return {
        "checkpoint": str(path.relative_to(here) if path.is_relative_to(here) else path),
        "step": checkpoint.step,
        "samples_seen": checkpoint.samples_seen,
        "modalities": list(predictor.specs),
        "head": None if predictor.head is None else type(predictor.head).__name__,
        "embed_dim": int(model.embed_dim),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
