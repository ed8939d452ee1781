"""A source of ready-made vectors and a predictor that returns them: the tasks' surroundings without
a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from mmfm import distributed
from mmfm.config import from_dict
from mmfm.types import Label
from mmfm_eval.suite import SuiteConfig
from mmfm_eval.tasks.base import Score


@dataclass(frozen=True)
class FakeSource:
    """Samples with one vector per modality; a modality's vector may be missing (None)."""

    ids: list[str]
    groups: list[int]
    vectors: dict[str, list[Any]]
    names: list[str] = field(default_factory=list)
    """The sample's label name, "" for none."""
    label_names: dict[str, list[str]] = field(default_factory=dict)
    numbering: tuple[str, ...] | None = None
    passes: list[str | None] = field(default_factory=list)

    def with_label(self, label: Label) -> FakeSource:
        return replace(self, numbering=tuple(label.names))

    @property
    def bad_counts(self) -> dict[str, int]:
        return {}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches of three samples; rank r takes r::W, padded to equal counts by repetition."""
        self.passes.append(None if self.numbering is None else ",".join(self.numbering))
        world = distributed.world_size()
        share = -(-len(self.ids) // world)
        mine = [(distributed.rank() + i * world) % len(self.ids) for i in range(share)]
        for start in range(0, share, 3):
            yield self._batch(mine[start : start + 3])

    def _batch(self, which: list[int]) -> dict[str, Any]:
        batch: dict[str, Any] = {
            "rows": {},
            "sample_id": [self.ids[i] for i in which],
            "group": torch.tensor([self.groups[i] for i in which]),
        }
        for modality, vectors in self.vectors.items():
            rows = [row for row, i in enumerate(which) if vectors[i] is not None]
            if rows:
                batch["rows"][modality] = torch.tensor(rows)
                found = np.stack([vectors[which[row]] for row in rows])
                batch[modality] = torch.tensor(found, dtype=torch.float32)
        if self.numbering is not None:
            number = {name: i for i, name in enumerate(self.numbering)}
            batch["labels"] = torch.tensor([number.get(self.names[i], -100) for i in which])
        return batch


class FakePredictor:
    """The embedding is the vector, made one unit long; fused is the mean over the modalities that
    are there.
    """

    def __init__(self, modalities: Sequence[str] = ("image", "text", "audio")) -> None:
        self.specs: dict[str, dict[str, Any]] = {m: {} for m in modalities}
        self.head: Any = None
        self.transforms: dict[str, Any] = {}
        self.model = SimpleNamespace(embed_dim=16, parameters=lambda: [torch.zeros(3)], encoders={})
        self.task = SimpleNamespace(to=lambda device: None)
        self.device = torch.device("cpu")

    def encode_batches(
        self, data: Any, modalities: Sequence[str], fused: bool = False, pooled: bool = False
    ) -> Any:
        found: dict[str, dict[str, tuple[Any, int, int]]] = {}
        for batch in data:
            parts: dict[str, dict[int, Any]] = {
                m: dict(zip(batch["rows"][m].tolist(), batch[m].flatten(1).numpy(), strict=True))
                for m in modalities
                if m in batch["rows"]
            }
            if fused:
                rows = sorted({row for part in parts.values() for row in part})
                parts["fused"] = {
                    row: np.mean([p[row] for p in parts.values() if row in p], axis=0)
                    for row in rows
                }
            labels = batch.get("labels", torch.full_like(batch["group"], -100))
            for m, part in parts.items():
                for row, vector in part.items():
                    key = batch["sample_id"][row]
                    found.setdefault(m, {})[key] = (
                        vector,
                        int(batch["group"][row]),
                        int(labels[row]),
                    )
        encoded = SimpleNamespace(embedding={}, pooled={}, row_ids={}, groups={}, labels={})
        gathered = distributed.all_gather_object(found)
        for m in sorted({m for part in gathered for m in part}):
            rows_by_id = {k: v for part in gathered for k, v in part.get(m, {}).items()}
            ids = sorted(rows_by_id)
            x = np.stack([rows_by_id[i][0] for i in ids])
            encoded.row_ids[m] = ids
            encoded.embedding[m] = x / np.linalg.norm(x, axis=1, keepdims=True)
            encoded.pooled[m] = x if pooled else None
            encoded.groups[m] = np.array([rows_by_id[i][1] for i in ids])
            encoded.labels[m] = np.array([rows_by_id[i][2] for i in ids])
        return encoded

    def logits_batches(self, data: Any) -> Any:
        """The logits are the picture's first numbers, one for each class."""
        found: dict[str, tuple[Any, int, int]] = {}
        for batch in data:
            for i, key in enumerate(batch["sample_id"]):
                logits = batch["image"][i, : len(self.head.label_names)].numpy()
                found[key] = (logits, int(batch["group"][i]), int(batch["labels"][i]))
        gathered = {k: v for part in distributed.all_gather_object(found) for k, v in part.items()}
        logits, groups, labels = zip(*(gathered[i] for i in sorted(gathered)), strict=True)
        return SimpleNamespace(
            logits=np.stack(logits),
            groups=np.array(groups),
            labels=np.array(labels),
            row_ids=sorted(gathered),
        )


def concept_source(
    prefix: str = "s", copies: int = 2, concepts: int = 20, noise: float = 0.5, seed: int = 0
) -> FakeSource:
    """`copies` samples of each concept; vectors of all modalities are the concept's plus noise;
    label = concept % 4.
    """
    centres = np.random.default_rng(99).normal(size=(concepts, 16))
    rng = np.random.default_rng(seed)
    groups = [i % concepts for i in range(copies * concepts)]
    names = ["bird", "cat", "dog", "fish"]
    return FakeSource(
        ids=[f"{prefix}{i:04d}" for i in range(len(groups))],
        groups=groups,
        vectors={
            m: [centres[g] + noise * rng.normal(size=16) for g in groups]
            for m in ("image", "text", "audio")
        },
        names=[names[g % 4] for g in groups],
        label_names={"animal": names},
    )


SOURCE = {"a": {"path": "x"}, "b": {"path": "y"}}


def task(**settings: Any) -> Any:
    suite = {"name": "s", "sources": SOURCE, "tasks": {"t": settings}}
    return from_dict(SuiteConfig, suite).tasks["t"].build()


def retrieval(query: dict[str, Any], gallery: dict[str, Any], **settings: Any) -> Any:
    return task(type="retrieval", query=query, gallery=gallery, **settings)


def scores(evaluator: Any, predictor: Any = None, **data: FakeSource) -> dict[str, Score]:
    return {s.name: s for s in evaluator(predictor or FakePredictor(), data)}


IMAGE, TEXT = {"source": "a", "modality": "image"}, {"source": "a", "modality": "text"}
LABELLED = {"train": "a", "test": "b", "label": "animal", "modality": "image"}
