"""A trained model for use: embeddings and predictions, on one process or over many.

    predictor = mmfm.load("runs/quickstart")
    predictor.encode(image=["cat.png"], text=["a cat"])["image"]   # [1, embed_dim], length 1

`encode_batches`, `logits_batches` and the like run over whole data sets; they are collective, and
give every rank all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmfm import distributed
from mmfm.checkpoint import Checkpoint, CheckpointError, Weights
from mmfm.config import ConfigError, component, from_dict
from mmfm.data.decode import TRANSFORMS, build_transforms
from mmfm.heads.base import Head
from mmfm.heads.recommendation import RecommendationHead
from mmfm.layers.lora import is_wrapped, of_lora
from mmfm.lora import all_parts
from mmfm.masked_losses import Baseline, Context, MaskedLosses, losses_by_context
from mmfm.model import FUSED, Model
from mmfm.next_item import Ranked, next_items, rank_held_out
from mmfm.task import (
    FinetuneTask,
    FinetuneTaskConfig,
    Output,
    PretrainTask,
    PretrainTaskConfig,
    Task,
)
from mmfm.types import IGNORE_INDEX, Batch, Read, to_device

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
_TARGET = "target of the head"


@dataclass
class Encoded:
    """Rows by modality (and "fused"), each sample once, in the order of the sample ids."""

    embedding: dict[str, Floats] = field(default_factory=dict)
    pooled: dict[str, Floats] = field(default_factory=dict)
    row_ids: dict[str, list[str]] = field(default_factory=dict)
    groups: dict[str, Ints] = field(default_factory=dict)
    labels: dict[str, Ints] = field(default_factory=dict)


@dataclass
class Predictions:
    """A classification head's `logits` [n,classes] with the samples' ids, groups and labels."""

    logits: Floats
    row_ids: list[str]
    groups: Ints
    labels: Ints


@dataclass
class Judged:
    """The columns of a head's `predict` and what is right [n,…], of the samples for which that is
    known, with their ids and groups.
    """

    predicted: dict[str, NDArray[Any]]
    target: NDArray[Any]
    row_ids: list[str]
    groups: Ints


class Predictor:
    """A task in evaluation mode. `specs` and `transforms`: what the data pipeline must know;
    `label`: (field, names) of the head.
    """

    def __init__(
        self,
        task: Task,
        label: tuple[str, list[str]] | None = None,
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

    @torch.no_grad()
    def encode(self, batch_size: int = 64, **inputs: Sequence[Any]) -> dict[str, Tensor]:
        """Embeddings [n, embed_dim] of length 1 for each modality named, e.g. ``image=[…],
        text=[…]``.

        Each item is a path, the bytes of a file, or what the modality's transform takes: a string
        for text, a PIL image or an array for a picture, a waveform at the encoder's rate for sound.
        """
        settings = {m: t for m, t in self.transforms.items() if m in self.model.specs}
        transforms = build_transforms(self.model.specs, settings)
        unused = np.random.default_rng(0)
        found: dict[str, Tensor] = {}
        for modality, items in inputs.items():
            if modality not in transforms:
                raise ValueError(f"no modality {modality!r}; the model has {', '.join(transforms)}")
            if isinstance(items, str | bytes | Path):  # a string would be taken letter by letter
                raise ValueError(f"{modality} must be a list of items, not {type(items).__name__}")
            transform, parts = transforms[modality], []
            for start in range(0, len(items), batch_size):
                chosen = [transform.content_of(item) for item in items[start : start + batch_size]]
                arrays = [transform.decode_content(c, unused, False) for c in chosen]
                batch: Batch = {
                    **transform.collate(arrays),
                    "rows": {modality: torch.arange(len(arrays))},
                    "sample_id": [str(start + i) for i in range(len(arrays))],
                }
                read = Read("clean", (modality,))
                parts.append(self._run(batch, reads=[read]).features[read].embedding[modality])
            if parts:
                found[modality] = torch.cat(parts)
        return found

    @torch.no_grad()
    def encode_batches(
        self,
        data: Iterable[Batch],
        modalities: Sequence[str],
        fused: bool = False,
        pooled: bool = False,
    ) -> Encoded:
        """Embeddings of every sample in `data` that has any of `modalities`; with `fused` of all of
        them together too, with `pooled` the encoders' pooled outputs too. Collective.
        """
        reads = {m: Read("clean", (m,)) for m in modalities}
        if fused:
            reads[FUSED] = Read("clean", tuple(sorted(modalities)), fused=True)
        tables: dict[str, _Table] = {key: _Table() for key in reads}
        for batch in data:
            found = self._run(batch, reads=list(reads.values())).features
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
            ids, groups, labels, columns_np = table.gather()
            if not ids:
                continue
            out.row_ids[key], out.groups[key], out.labels[key] = ids, groups, labels
            out.embedding[key] = columns_np["embedding"]
            if pooled:
                out.pooled[key] = columns_np["pooled"]
        return out

    @torch.no_grad()
    def logits_batches(self, data: Iterable[Batch]) -> Predictions:
        """The head's logits of every sample in `data` that has what the head reads. Collective."""
        if self.head is None:
            raise ConfigError("the checkpoint has no head: it was pretrained, not fine-tuned")
        table = _Table()
        for batch in data:
            outputs = self._run(batch, predict=True).predictions
            table.add(batch, outputs["rows"].cpu(), {"logits": outputs["logits"]})
        ids, groups, labels, columns = table.gather()
        if not ids:
            wanted = ", ".join(m for read in self.head.reads for m in read.modalities)
            raise ValueError(f"no sample has any of what the head reads ({wanted})")
        return Predictions(columns["logits"], ids, groups, labels)

    @torch.no_grad()
    def judged_batches(self, data: Iterable[Batch]) -> Judged:
        """What the head predicts and what is right, of every sample in `data` for which that is
        known. Collective.
        """
        if self.head is None:
            raise ConfigError("the checkpoint has no head: it was pretrained, not fine-tuned")
        table = _Table()
        for batch in data:
            found = self.head.predict(self._run(batch, predict=True).predictions)
            rows = found.pop("rows")
            target, known = self.head.target(to_device(batch, self.device), rows)
            columns = {name: values[known] for name, values in (*found.items(), (_TARGET, target))}
            table.add(batch, rows[known].cpu(), columns)
        ids, groups, _, columns_np = table.gather()
        if not ids:
            raise ValueError("no sample has both what the head reads and what it learns")
        return Judged(columns_np, columns_np.pop(_TARGET), ids, groups)

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
        return self._run(batch, predict=True).predictions["logits"]

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
        tables: dict[str, _Table] = {name: _Table() for name in baselines}
        for batch in data:
            prepared = self.task.prepare(to_device(batch, self.device))
            found = losses_by_context(self._run, self.task, prepared, baselines, without)
            for name, (samples, columns) in found.items():
                tables[name].add(batch, samples.cpu(), columns)
        gathered = {name: table.gather() for name, table in tables.items()}
        return {
            name: MaskedLosses.of(ids, groups, columns)
            for name, (ids, groups, _, columns) in gathered.items()
        }

    def _run(self, batch: Batch, **request: Any) -> Output:
        if self.task.training:
            self.task.eval()
        return self._forward(to_device(batch, self.device), **request)


class _Table:
    """Rows of all batches of this rank, then of all ranks."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.groups: list[int] = []
        self.labels: list[int] = []
        self.columns: dict[str, list[NDArray[Any]]] = {}

    def add(self, batch: Batch, rows: Tensor, columns: Mapping[str, Tensor]) -> None:
        self.ids += [batch["sample_id"][i] for i in rows.tolist()]
        self.groups += batch["group"][rows].tolist()
        labels = batch.get("labels")
        self.labels += [IGNORE_INDEX] * len(rows) if labels is None else labels[rows].tolist()
        for name, values in columns.items():
            exact = values.float() if values.is_floating_point() else values
            self.columns.setdefault(name, []).append(exact.cpu().numpy())

    def gather(self) -> tuple[list[str], Ints, Ints, dict[str, NDArray[Any]]]:
        """All ranks' rows, each id once, ordered by id."""
        mine = {name: np.concatenate(parts) for name, parts in self.columns.items()}
        ranks = distributed.all_gather_object((self.ids, self.groups, self.labels, mine))
        ids = [i for part in ranks for i in part[0]]
        groups = np.array([g for part in ranks for g in part[1]], dtype=np.int64)
        labels = np.array([v for part in ranks for v in part[2]], dtype=np.int64)
        _, first = np.unique(np.array(ids, dtype=object), return_index=True)
        filled = [part[3] for part in ranks if part[3]]
        names = filled[0] if filled else {}
        columns = {name: np.concatenate([part[name] for part in filled])[first] for name in names}
        return [ids[i] for i in first], groups[first], labels[first], columns


def load(
    path: str | Path, device: str | torch.device | None = None, weights: Weights = "model"
) -> Predictor:
    """The model of a checkpoint (its folder, or a run's folder for the latest), in evaluation mode;
    with `weights` = "ema" the average over its training.

    Nothing but the folder is needed. CheckpointError where it is missing, broken or of another
    version.
    """
    checkpoint = Checkpoint.open(path)
    raw = checkpoint.config
    label = checkpoint.preprocessing["label"]
    task = build(raw, label_names=label[1] if label else (), assets=checkpoint.assets, for_use=True)
    left_out = tuple(
        f"objectives.{name}." for name in raw.get("objectives", {}) if name not in task.objectives
    )
    found = {
        name: tensor
        for name, tensor in checkpoint.weights(weights).items()
        if not name.startswith(left_out)
    }
    wanted = task.state_dict()
    if set(found) != set(wanted):
        off = sorted(set(found) ^ set(wanted))
        raise CheckpointError(
            f"{checkpoint.path}: its weights don't fit its own config, or another "
            f"version of mmfm wrote it: {off[:3]}"
        )
    task.load_state_dict(found)
    task.to(device if device is not None else distributed.device()).eval()
    return Predictor(
        task,
        (label[0], label[1]) if label else None,
        config=raw,
        assets=checkpoint.assets,
        transforms=transforms_of(checkpoint),
    )


def transforms_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The settings of the transforms by modality that a checkpoint was trained with."""
    return {
        modality: component(settings, TRANSFORMS, f"transforms.{modality}")
        for modality, settings in checkpoint.preprocessing["transforms"].items()
    }


def build(
    raw: Mapping[str, Any],
    label_names: Sequence[str] = (),
    assets: Path | None = None,
    for_use: bool = False,
) -> Task:
    """The task of a recipe given as a plain mapping: with ``objectives`` a `PretrainTask`, with
    ``head`` a `FinetuneTask`; its other sections are not looked at. `for_use`: without the
    objectives that only training needs.
    """
    if "head" in raw:
        parts = {key: raw[key] for key in ("model", "head", "lora") if key in raw}
        return FinetuneTask.build(from_dict(FinetuneTaskConfig, parts), label_names, assets)
    parts = {key: raw[key] for key in ("model", "objectives") if key in raw}
    return PretrainTask.build(from_dict(PretrainTaskConfig, parts), assets, for_use)


def untrained(predictor: Predictor, seed: int) -> Predictor:
    """The same network with the weights that training would start from, drawn anew by `seed`.

    A frozen encoder keeps its weights, and so does what LoRA is put beside. An encoder that was
    pretrained elsewhere and then trained along starts at random here, not where training started.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        label_names = predictor.label[1] if predictor.label else ()
        task = build(predictor.config, label_names, predictor.assets, for_use=True)
    for name, part in all_parts(predictor.model).items():
        if is_wrapped(part) or getattr(part, "frozen", False):
            kept = {n: t for n, t in part.state_dict().items() if not of_lora(n)}
            all_parts(task.model)[name].load_state_dict(kept, strict=False)
    task.to(predictor.device).eval()
    return Predictor(
        task,
        predictor.label,
        config=predictor.config,
        assets=predictor.assets,
        transforms=predictor.transforms,
    )
