"""A run that is set up: its recipe, its task, its folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmfm import distributed
from mmfm.data.pipeline import Pipeline
from mmfm.objectives.base import Objective
from mmfm.task import Task
from mmfm.train.judging.evaluation import open_manifests
from mmfm.train.recipe import Recipe
from mmfm.types import Label


@dataclass
class Run:
    """A run that is set up: nothing of it has started yet. `label`: what a head learns. `begin`:
    what is left to be done to the task in the process group, before a run that is not a resumed
    one; collective. `notes`: lines on what was made of the recipe, for the plan and the log.
    `seen_before`: what `mmfm.train.judging.final_test.check_test` says of the test's samples.
    """

    recipe: Recipe
    task: Task
    label: Label | None = None
    evaluate_first: bool = False
    begin: Callable[[], None] | None = None
    notes: list[str] = field(default_factory=list)
    seen_before: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder = Path(self.recipe.run.dir)
        self.checkpoints = self.folder / "checkpoints"

    def weights(self) -> dict[str, int]:
        """How many the task has, and how many of them train."""
        counts = [(p.numel(), p.requires_grad) for p in self.task.parameters()]
        return {"total": sum(n for n, _ in counts), "trained": sum(n for n, on in counts if on)}

    def warnings(self, pipeline: Pipeline) -> list[str]:
        """What is less than was asked for: what objectives read, samples of a subset, groups of
        batch norms, and of the test, which may not be new to the model.
        """
        sources = {name: manifest for name, manifest, _ in pipeline.order.sources}
        notes = [f"data.sources.{n}: {line}" for n, m in sources.items() for line in m.notes]
        evaluated = open_manifests(self.recipe).items()
        notes += [f"eval.sources.{n}: {line}" for n, m in evaluated for line in m.notes]
        return self.never_there(pipeline) + self.split_groups(pipeline) + notes + self.seen_before

    def never_there(self, pipeline: Pipeline) -> list[str]:
        """A sentence for each objective that reads what no sample of the sources has."""
        strata = pipeline.order.strata
        there = {m for stratum in strata for m in stratum.modality_set.split("+")}
        lines = []
        for name, objective in self.task.objectives.items():
            assert isinstance(objective, Objective)
            read = {m for r in objective.reads for m in r.modalities}
            if read - there:
                gone = ", ".join(sorted(read - there))
                lines.append(f"no sample in data.sources has {gone}, which {name!r} reads")
        return lines

    def split_groups(self, pipeline: Pipeline) -> list[str]:
        """A sentence for each encoder whose batch norms see other groups on other ranks."""
        order, lines = pipeline.order, []
        sources = self.recipe.data.sources.values()
        for modality in self.task.model.encoders:
            norms = self.task.model.encoder(modality).norms
            everywhere = all(modality in s.modality_set.split("+") for s in order.strata)
            if modality in self.task.mask_ratios and len({s.masked_view for s in sources}) > 1:
                everywhere = False
            if norms is not None and (order.slots % norms.size or not everywhere):
                lines.append(
                    f"model.encoders.{modality}.batch_norm_size = {norms.size} doesn't divide the "
                    f"{order.slots} samples that a stream has in a step, or not all have {modality}"
                    ": a step depends a little on the number of ranks and micro-batches"
                )
        return lines

    def pipeline(self, world_size: int, **more: Any) -> Pipeline:
        recipe = self.recipe
        return Pipeline(
            recipe.data,
            self.task.specs,
            seed=recipe.run.seed,
            rank=distributed.rank(),
            world_size=world_size,
            micro_batch_size=recipe.train.micro_batch_size,
            label=self.label,
            pin_memory=distributed.on_gpu(),
            **more,
        )
