"""Tasks: a model with what is learnt on it. A batch goes in, losses as (sum, count) come out.

`PretrainTask` is a model with objectives, `FinetuneTask` a model with a head. Both are plain
`nn.Module`s without any trainer: in a loop of your own,

    batch = task.prepare(batch)
    loss = task.total(task(batch).losses, task.counts(batch))
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from mmfm.config import Component, ConfigError
from mmfm.heads.base import Head
from mmfm.lora import LoraConfig, add_lora
from mmfm.masking import derive_seed, draw_mask, mix_ints, salt, seed_dropout
from mmfm.model import ENCODED, Model, ModelConfig
from mmfm.negatives import mismatched
from mmfm.objectives.base import CachedObjective, MaskedObjective, Objective
from mmfm.teaching import TeacherConfig, teacher_objectives
from mmfm.types import Batch, Features, LossTerms, Read, View

OF_ROWS = ("mask", "tokens", "tokens_mask", "pooled")
"""What a batch holds for each row of a modality m beside its inputs, as ``m_mask`` and so on."""

StepRows = dict[str, dict[str, Tensor]]
"""objective ▶ its rows (see `CachedObjective`), of one micro-batch or of a whole step."""


@dataclass
class Output:
    """`losses`: name ▶ (sum, count); `surrogate`: a scalar whose gradient is that of the cached
    losses; `scalars`: the values of the cached objectives' own parameters; `rows`, `features`, or
    the head's `predictions` are there instead if they were asked for.
    """

    losses: LossTerms = field(default_factory=dict)
    surrogate: Tensor | None = None
    rows: StepRows = field(default_factory=dict)
    scalars: StepRows = field(default_factory=dict)
    features: dict[Read, Features] = field(default_factory=dict)
    predictions: dict[str, Tensor] = field(default_factory=dict)


Use = Callable[[Batch], Output]
"""What else is computed with a task. It runs inside of the task's `forward`, so that an engine that
holds the weights in parts has them there.
"""


@dataclass(kw_only=True)
class PretrainTaskConfig:
    """The parts of a pretraining recipe that make its task."""

    model: ModelConfig
    objectives: dict[str, Annotated[Any, Component("mmfm.objectives")]]


@dataclass(kw_only=True)
class FinetuneTaskConfig:
    """The parts of a fine-tuning recipe that make its task."""

    model: ModelConfig
    head: Annotated[Any, Component("mmfm.heads")]
    lora: LoraConfig | None = None
    teacher: TeacherConfig | None = None


class Task(nn.Module):
    """A model and named objectives with their weights, those of the first step until `set_step`;
    `whole_weights` are those that a schedule leads to. The trainer may split a step (see
    `forward`).
    """

    def __init__(self, model: Model, objectives: Mapping[str, tuple[Objective, float]]) -> None:
        super().__init__()
        self.model = model
        self.objectives = nn.ModuleDict({name: o for name, (o, _) in objectives.items()})
        self.whole_weights = {name: weight for name, (_, weight) in objectives.items()}
        self.weights = dict(self.whole_weights)
        self.weight_at: dict[str, Callable[[int], float]] = {}
        self.mask_ratios: dict[str, float] = {}
        for name, (objective, _) in objectives.items():
            if "/" in name or "." in name:
                raise ValueError(f"objectives.{name}: a name can't hold a dot or a slash")
            for modality, ratio in objective.masks.items():
                if self.mask_ratios.setdefault(modality, ratio) != ratio:
                    raise ValueError(
                        f"objectives.{name} masks {ratio} of {modality!r}, another objective masks "
                        f"{self.mask_ratios[modality]}: the masked view has one mask for each "
                        "modality"
                    )

    @property
    def specs(self) -> dict[str, dict[str, Any]]:
        """Modality ▶ what the data pipeline must know of it."""
        return self.model.specs

    def set_step(self, step: int) -> None:
        """Use the weights of `step` (from 0), for the objectives in `weight_at`, whose weight
        varies.

        An objective of weight 0 still runs: all ranks do the same work in every step.
        """
        self.weights |= {name: weight_at(step) for name, weight_at in self.weight_at.items()}

    @property
    def raw(self) -> tuple[str, ...]:
        """The modalities whose inputs are read even where their encoder's outputs are cached."""
        read = (m for _, objective in self._named() for m in objective.raw)
        return tuple(dict.fromkeys((*self.mask_ratios, *read)))

    @property
    def cached(self) -> dict[str, CachedObjective]:
        """The objectives that compare all samples of the step."""
        return {n: o for n, o in self._named() if isinstance(o, CachedObjective)}

    def _named(self) -> Iterator[tuple[str, Objective]]:
        for name, objective in self.objectives.items():
            assert isinstance(objective, Objective)
            yield name, objective

    def prepare(self, batch: Batch) -> Batch:
        """`batch` with the masks of the masked view, one for each row that enters it: a pure
        function of each sample's `mask_seed`; and with what objectives add.
        """
        for _, objective in self._named():
            batch = objective.prepare(batch)
        masks = {}
        part = in_masked_view(batch)
        for modality, ratio in self.mask_ratios.items():
            if modality in part:
                encoder = self.model.encoder(modality)
                maskable = encoder.maskable(part[modality], part.get(f"{modality}_mask"))
                seeds = part["mask_seed"][part["rows"][modality]]
                masks[modality] = draw_mask(maskable, ratio, derive_seed(seeds, salt(modality)))
        return {**batch, "masks": masks}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """The count of each loss in a prepared micro-batch, by ``objective/term``."""
        return {
            f"{name}/{term}": count
            for name, objective in self._named()
            for term, count in objective.counts(batch, batch["masks"]).items()
        }

    def total(self, losses: LossTerms, counts: Mapping[str, Tensor]) -> Tensor:
        """This rank's part of the step's loss: weighted sums over the step's global `counts`."""
        parts = [
            self.weights[name.split("/")[0]] * total / above_zero(counts[name]).to(total.dtype)
            for name, (total, _) in losses.items()
        ]
        return torch.stack(parts).sum() if parts else torch.zeros(())

    def forward(
        self,
        batch: Batch,
        rows_only: bool = False,
        gradients: StepRows | None = None,
        reads: Sequence[Read] | None = None,
        use: Use | None = None,
    ) -> Output:
        """Losses of a prepared micro-batch.

        `rows_only`: just the rows and scalars of the cached objectives. `gradients`: the cached
        losses are replaced by the surrogate that hands these gradients at their rows (and scalars,
        where given) back. `reads`: just the features of these reads, of a batch that need not be
        prepared. `use`: just what this function makes of such a batch.
        """
        if use is not None:
            return use(batch)
        if reads is not None:
            return Output(features=self.features(batch, reads))
        cached = self.cached
        active = dict(cached if rows_only else self._named())
        features = self.features(batch, [read for o in active.values() for read in o.reads])
        output = Output()
        for name, objective in active.items():
            self._reseed(batch, f"objective/{name}")
            if rows_only:
                output.rows[name] = cached[name].rows(features, batch)
                output.scalars[name] = cached[name].scalars()
            elif gradients is not None and name in cached:
                values = {**cached[name].rows(features, batch), **cached[name].scalars()}
                for key, gradient in gradients[name].items():
                    part = (values[key].float() * gradient).sum()
                    output.surrogate = part if output.surrogate is None else output.surrogate + part
            elif name in cached:
                rows, scalars = cached[name].rows(features, batch), cached[name].scalars()
                output.scalars[name] = scalars
                self._add(output, name, cached[name].loss(rows, scalars))
            else:
                self._add(output, name, objective(features, batch))
        return output

    @staticmethod
    def _add(output: Output, name: str, losses: LossTerms) -> None:
        output.losses.update({f"{name}/{term}": pair for term, pair in losses.items()})

    def cached_losses(self, rows: StepRows, scalars: StepRows) -> LossTerms:
        """The cached objectives' losses of this rank's rows of a whole step; collective."""
        return {
            f"{name}/{term}": pair
            for name, objective in self.cached.items()
            for term, pair in objective.loss(rows[name], scalars[name]).items()
        }

    def features(self, batch: Batch, reads: Iterable[Read]) -> dict[Read, Features]:
        """Run each encoder once for each view that is read, and fusion once for each fused read."""
        reads = tuple(dict.fromkeys(reads))
        found: dict[Read, Features] = {}
        for view in dict.fromkeys(read.view for read in reads):
            of_view = [read for read in reads if read.view == view]
            wanted = {m for read in of_view for m in read.modalities}
            encoded = self._encode(batch, [m for m in self.model.encoders if m in wanted], view)
            for read in of_view:
                # A step may lack every modality of a read, or one side of a mismatched one; then
                # there is nothing to fuse.
                sides = (read.kept, read.replaced) if read.replaced else (read.modalities,)
                if not read.fused or not all(encoded.has(side) for side in sides):
                    found[read] = encoded
                    continue
                self._reseed(batch, "/".join((view, *("+".join(side) for side in sides))))
                parts = mismatched(encoded, batch, read) if read.replaced else encoded
                found[read] = self.model.fuse(parts, read.modalities)
        return found

    def _encode(self, batch: Batch, modalities: list[str], view: View) -> Features:
        merged = Features(batch_size=len(batch["sample_id"]))
        masks = batch.get("masks") if view == "masked" else None
        if view == "masked":
            batch = in_masked_view(batch)
        for modality in modalities:
            # Each encoder has its own seed, so its dropout is the same whichever other encoders
            # run.
            self._reseed(batch, f"{view}/{modality}")
            one = self.model.encode(batch, (modality,), view, masks)
            for name in ENCODED:
                getattr(merged, name).update(getattr(one, name))
        return merged

    def _reseed(self, batch: Batch, use: str) -> None:
        if self.training and "dropout_seed" in batch:
            device = next(self.parameters()).device
            seed_dropout(device, mix_ints(batch["dropout_seed"], salt(use)))


class PretrainTask(Task):
    """A model and the objectives of a pretraining recipe."""

    @classmethod
    def build(
        cls, config: PretrainTaskConfig, assets: Path | None = None, for_use: bool = False
    ) -> PretrainTask:
        """The task of a recipe; `assets`: a checkpoint's folder of what the encoders need;
        `for_use`: without the objectives that only training needs.
        """
        if not config.objectives:
            raise ConfigError("objectives: name at least one")
        model = config.model.build(assets)
        objectives = {}
        for name, objective in config.objectives.items():
            if for_use and objective.for_training_only:
                continue
            try:
                objectives[name] = (objective.build(model), objective.weight)
            except ValueError as error:
                raise ConfigError(f"objectives.{name}: {error}") from None
        task = cls(model, objectives)
        scheduled = {n: o for n, o in config.objectives.items() if n in objectives and o.scheduled}
        task.weight_at = {name: objective.weight_at for name, objective in scheduled.items()}
        task.set_step(0)
        return task

    @property
    def masked(self) -> dict[str, MaskedObjective]:
        """The objectives that predict what a mask hides."""
        return {n: o for n, o in self._named() if isinstance(o, MaskedObjective)}

    def forward(
        self,
        batch: Batch,
        rows_only: bool = False,
        gradients: StepRows | None = None,
        reads: Sequence[Read] | None = None,
        use: Use | None = None,
        each: Sequence[str] = (),
    ) -> Output:
        """As in `Task`; `each`: of these masked objectives (error, prediction) at every masked
        position of a prepared batch, in `losses` under the objectives' names, with the features.
        """
        if not each:
            return super().forward(batch, rows_only, gradients, reads, use)
        chosen = {name: self.masked[name] for name in each}
        features = self.features(batch, [read for o in chosen.values() for read in o.reads])
        output = Output(features=features)
        for name, objective in chosen.items():
            for pair in objective(features, batch, each=True).values():
                output.losses[name] = pair
        return output


class FinetuneTask(Task):
    """A model and a head, whose loss is the one objective but for those of a teacher."""

    @classmethod
    def build(
        cls, config: FinetuneTaskConfig, label_names: Sequence[str], assets: Path | None = None
    ) -> FinetuneTask:
        """The task of a recipe with the label names that its data has."""
        model = config.model.build(assets)
        if config.lora is not None:
            try:
                add_lora(model, config.lora)
            except ValueError as error:
                raise ConfigError(f"lora: {error}") from None
        try:
            head: Head = config.head.build(model, label_names)
        except ValueError as error:
            raise ConfigError(f"head: {error}") from None
        objectives = {"head": (head.objective(), getattr(config.head, "weight", 1.0))}
        objectives |= head.beside()
        if config.teacher is not None:
            try:
                objectives |= teacher_objectives(config.teacher, model, head)
            except ValueError as error:
                raise ConfigError(f"teacher: {error}") from None
        return cls(model, objectives)

    @property
    def head(self) -> Head:
        head = self.objectives["head"].head
        assert isinstance(head, Head)
        return head

    @property
    def specs(self) -> dict[str, dict[str, Any]]:
        """As in `Task`, with what the head reads by itself."""
        return {**self.model.specs, **self.head.specs}

    def forward(
        self,
        batch: Batch,
        rows_only: bool = False,
        gradients: StepRows | None = None,
        reads: Sequence[Read] | None = None,
        use: Use | None = None,
        predict: bool = False,
    ) -> Output:
        """As in `Task`; `predict`: just the head's outputs, of a batch that need not be
        prepared.
        """
        if predict:
            return Output(predictions=self.head(self.features(batch, self.head.reads), batch))
        return super().forward(batch, rows_only, gradients, reads, use)


def above_zero(count: Tensor) -> Tensor:
    """`count`, a number or a sum of weights, or 1 where there is nothing to divide."""
    return torch.where(count > 0, count, torch.ones_like(count))


def in_masked_view(batch: Batch) -> Batch:
    """`batch` with only those rows of each modality whose samples enter the masked view.

    The samples keep their places, so `rows` and what is given for each sample stay as they are.
    """
    enters = batch.get("masked_view")
    if enters is None or bool(enters.all()):
        return batch
    part = {**batch, "rows": {}}
    for modality, rows in batch["rows"].items():
        chosen = enters[rows].nonzero()[:, 0]
        for key in (modality, *(f"{modality}_{name}" for name in OF_ROWS)):
            if key in batch and len(chosen):
                part[key] = batch[key][chosen]
            else:
                part.pop(key, None)
        if len(chosen):
            part["rows"][modality] = rows[chosen]
    return part


def without(batch: Batch, modalities: Collection[str]) -> Batch:
    """`batch` as if no sample had these `modalities`; a batch that is prepared keeps its masks."""
    gone = {f"{m}_{name}" for m in modalities for name in OF_ROWS} | set(modalities)
    part = {key: value for key, value in batch.items() if key not in gone}
    rows = {m: value for m, value in batch["rows"].items() if m not in modalities}
    return {**part, "rows": rows}
