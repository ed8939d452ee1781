"""The predictor: a task in evaluation mode, for single items and for whole data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmfm.config import ConfigError
from mmfm.data.decode import build_transforms
from mmfm.data.transforms.base import Transform
from mmfm.heads.base import Head
from mmfm.heads.recommendation import RecommendationHead
from mmfm.masked_losses import Baseline, Context, MaskedLosses, losses_by_context
from mmfm.model import FUSED, Model
from mmfm.next_item import Ranked, next_items, rank_held_out
from mmfm.predictor import items
from mmfm.predictor.outputs import Encoded, Judged, Predictions
from mmfm.predictor.table import Table
from mmfm.task import FinetuneTask, Output, PretrainTask, Task
from mmfm.types import Batch, Features, Label, Read, to_device

_TARGET = "target of the head"


class Predictor:
    """A task in evaluation mode. `specs` and `transforms`: what the data pipeline must know;
    `label`: what the head has learnt.
    """

    def __init__(
        self,
        task: Task,
        label: Label | None = None,
        forward: Callable[..., Output] | None = None,
        config: Mapping[str, Any] | None = None,
        assets: Path | None = None,
        transforms: Mapping[str, Any] | None = None,
    ) -> None:
        self.task = task
        self.transforms = dict(transforms or {})
        self.label = label
        self.config = dict(config or {})
        self.assets = assets
        self._forward = forward or task

    @property
    def model(self) -> Model:
        return self.task.model

    @property
    def head(self) -> Head | None:
        return self.task.head if isinstance(self.task, FinetuneTask) else None

    @property
    def specs(self) -> dict[str, dict[str, Any]]:
        return self.task.specs

    @property
    def device(self) -> torch.device:
        return next(self.task.parameters()).device

    @cached_property
    def item_transforms(self) -> dict[str, Transform]:
        """What makes inputs of the items that a caller gives, as the head reads them."""
        return self._build_transforms(self.specs)

    @cached_property
    def _whole_transforms(self) -> dict[str, Transform]:
        """The same as the model reads them: a head may want long texts in windows."""
        return self._build_transforms(self.model.specs)

    def _build_transforms(self, specs: Mapping[str, Mapping[str, Any]]) -> dict[str, Transform]:
        settings = {m: t for m, t in self.transforms.items() if m in specs}
        return build_transforms(specs, settings)

    @torch.no_grad()
    def encode(self, batch_size: int = 64, **inputs: Sequence[Any]) -> dict[str, Tensor]:
        """Embeddings [n, embed_dim] of length 1 for each modality named, e.g. ``images=[…],
        texts=[…]``; lists need not be equally long.

        Each item is a path, the bytes of a file, or what the modality's transform takes: a string
        for text, a PIL image or an array for a picture, a waveform at the encoder's rate for sound.

        Raises:
            ValueError: for an item that can't be used, with its place; None is none.
        """
        found: dict[str, Tensor] = {}
        for modality, listed in items.by_modality(inputs, self.model.specs).items():
            items.check_none_missing(modality, listed)
            read = Read("clean", (modality,))
            transforms = {modality: self._whole_transforms[modality]}
            parts = [
                self.run(batch, reads=[read]).features[read].embedding[modality]
                for batch in items.batches({modality: listed}, transforms, batch_size)
            ]
            if parts:
                found[modality] = torch.cat(parts)
        return found

    @torch.no_grad()
    def predict(self, batch_size: int = 64, **inputs: Sequence[Any]) -> list[Any]:
        """What the head says of each sample, e.g. ``images=[…], texts=[…]``, lists of one length in
        which None is what a sample lacks: for a classification ``{"label": …, "probability": …}``.

        Items are as in `encode`; a text for a token classification may be a list of its tokens.

        Raises:
            ConfigError: for a checkpoint without a head, or one that answers in another way.
            ValueError: for lists of different lengths, or a sample without any of what is read.
        """
        head = self._head()
        if head.asked_by != "predict":
            raise ConfigError(
                f"{type(head).__name__} says nothing of a sample by itself: use {head.asked_by} in "
                "the place of predict"
            )
        given = items.by_modality(inputs, self.specs)
        samples = items.check_samples(given, {m for read in head.reads for m in read.modalities})
        transforms = {m: self.item_transforms[m] for m in given}
        answers: list[Any] = [None] * samples
        for batch in items.batches(given, transforms, batch_size):
            found = head.predict(self.run(batch, predict=True).predictions)
            rows = found["rows"].tolist()
            for row, answer in zip(rows, head.answers(found, batch), strict=True):
                answers[int(batch["sample_id"][row])] = answer
        return answers

    @torch.no_grad()
    def encode_batches(
        self,
        data: Iterable[Batch],
        modalities: Sequence[str],
        fused: bool = False,
        pooled: bool = False,
        seen: Callable[[Batch, Mapping[Read, Features]], None] | None = None,
    ) -> Encoded:
        """Embeddings of every sample in `data` that has any of `modalities`; with `fused` of all of
        them together too, with `pooled` the encoders' pooled outputs too. `seen` is given what each
        batch became. Collective.
        """
        reads = {m: Read("clean", (m,)) for m in modalities}
        if fused:
            reads[FUSED] = Read("clean", tuple(sorted(modalities)), fused=True)
        tables: dict[str, Table] = {key: Table() for key in reads}
        for batch in data:
            found = self.run(batch, reads=list(reads.values())).features
            if seen is not None:
                seen(batch, found)
            for key, read in reads.items():
                features = found[read]
                if key not in features.embedding:
                    continue
                columns = {"embedding": features.embedding[key]}
                if pooled:
                    whole = features.fused_pooled if key == FUSED else features.pooled[key]
                    assert whole is not None
                    columns["pooled"] = whole
                tables[key].add(batch, features.rows[key].cpu(), columns)
        out = Encoded()
        for key, table in tables.items():
            rows = table.gather()
            if not rows.ids:
                continue
            out.row_ids[key], out.groups[key], out.labels[key] = rows.ids, rows.groups, rows.labels
            out.embedding[key] = rows.columns["embedding"]
            if pooled:
                out.pooled[key] = rows.columns["pooled"]
        return out

    @torch.no_grad()
    def logits_batches(self, data: Iterable[Batch]) -> Predictions:
        """The head's logits of every sample in `data` that has what the head reads. Collective."""
        head, table = self._head(), Table()
        for batch in data:
            outputs = self.run(batch, predict=True).predictions
            table.add(batch, outputs["rows"].cpu(), {"logits": outputs["logits"]})
        rows = table.gather()
        if not rows.ids:
            wanted = ", ".join(m for read in head.reads for m in read.modalities)
            raise ValueError(f"no sample has any of what the head reads ({wanted})")
        return Predictions(rows.columns["logits"], rows.ids, rows.groups, rows.labels)

    @torch.no_grad()
    def judged_batches(self, data: Iterable[Batch]) -> Judged:
        """What the head predicts and what is right, of every sample in `data` for which that is
        known. Collective.
        """
        head, table = self._head(), Table()
        for batch in data:
            found = head.predict(self.run(batch, predict=True).predictions)
            rows = found.pop("rows")
            target, known = head.target(to_device(batch, self.device), rows)
            columns = {name: values[known] for name, values in (*found.items(), (_TARGET, target))}
            table.add(batch, rows[known].cpu(), columns)
        all_rows = table.gather()
        if not all_rows.ids:
            raise ValueError("no sample has both what the head reads and what it learns")
        columns_np = all_rows.columns
        return Judged(columns_np, columns_np.pop(_TARGET), all_rows.ids, all_rows.groups)

    @torch.no_grad()
    def rank_batches(self, data: Iterable[Batch], place: int = 1) -> Ranked:
        """Where a recommendation head ranks the item at `place` from the end of each history (1 =
        the last) after what comes before it. Collective.
        """
        head = self._recommender()
        return rank_held_out(self._logits, data, place, head.held_out)

    @torch.no_grad()
    def recommend(self, history: Sequence[str], k: int = 10) -> list[tuple[str, float]]:
        """The `k` items that are likeliest to come next, with their probabilities, those of the
        `history` (ids of items, the latest last) left out.
        """
        head = self._recommender()
        if isinstance(history, str):  # a string would be taken letter by letter
            raise ValueError(f"a history is a list of ids, not {history!r}")
        unknown = [item for item in history if item not in head.rows]
        if unknown or not history or k < 1:
            what = f"{unknown[0]!r} is no item" if unknown else "nothing is asked for"
            raise ValueError(
                f"{what}: give the ids of at least one of the head's {len(head.rows)} items, such "
                f"as {head.item_ids[0]!r}, and a k of at least 1"
            )
        found = next_items(self._logits, [head.rows[item] for item in history], k)
        return [(head.item_ids[row], probability) for row, probability in found]

    def _logits(self, batch: Batch) -> Tensor:
        return self.run(batch, predict=True).predictions["logits"]

    def _head(self) -> Head:
        if self.head is None:
            raise ConfigError("the checkpoint has no head: it was pretrained, not fine-tuned")
        return self.head

    def _recommender(self) -> RecommendationHead:
        if not isinstance(self.head, RecommendationHead):
            raise ConfigError(
                "the checkpoint has no recommendation head: fine-tune one first (mmfm finetune)"
            )
        return self.head

    @torch.no_grad()
    def masked_losses_batches(
        self,
        data: Iterable[Batch],
        baselines: Mapping[str, Baseline],
        without: Sequence[Context] = (),
    ) -> dict[str, MaskedLosses]:
        """The losses of the masked objectives that `baselines` names, sample by sample: with all
        that a sample has, and for each of `without` as if it lacked these modalities.

        The masks are those of the samples' own seeds, the same for every context. Collective.
        """
        assert isinstance(self.task, PretrainTask)
        self.task.eval()
        tables: dict[str, Table] = {name: Table() for name in baselines}
        for batch in data:
            prepared = self.task.prepare(to_device(batch, self.device))
            found = losses_by_context(self.run, self.task, prepared, baselines, without)
            for name, (samples, columns) in found.items():
                tables[name].add(batch, samples.cpu(), columns)
        gathered = {name: table.gather() for name, table in tables.items()}
        return {
            name: MaskedLosses.of(rows.ids, rows.groups, rows.columns)
            for name, rows in gathered.items()
        }

    @torch.no_grad()
    def run(self, batch: Batch, **request: Any) -> Output:
        """The task's `forward` in evaluation mode, through the engine where one holds it."""
        if self.task.training:
            self.task.eval()
        return self._forward(to_device(batch, self.device), **request)
