"""The best candidates of each query judged pair by pair by the fusion, with the matching objective
of a checkpoint.

Every sample is encoded once: its tokens are kept in a file while the pass runs, and pairs are fused
from those, `AT_ONCE` at a time.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmfm import distributed
from mmfm.config import ConfigError
from mmfm.objectives.matching import Matching
from mmfm.task import Output
from mmfm.types import Batch, Features, Read

AT_ONCE = 64

Seen = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Of one sample and modality the valid tokens [L,D] and pooled [D]."""


class Judged(NamedTuple):
    """Of each query the rows of its `candidates` [Q,K] in the gallery, and the `logit` [Q,K] by
    which each belongs to it.
    """

    candidates: NDArray[np.int64]
    logit: NDArray[np.float64]


class Side(NamedTuple):
    """Rows of a source by sample id, with what each has of `modalities`."""

    source: str
    modalities: Sequence[str]
    ids: Sequence[str]


def matching_of(task: Any, modalities: set[str]) -> Matching:
    """The objective that judges whether `modalities` belong together; ConfigError without one."""
    judges = [m for m in getattr(task, "objectives", {}).values() if isinstance(m, Matching)]
    for judge in judges:
        if any(set(pair.own.modalities) == modalities for pair in judge.pairs):
            return judge
    has = ", ".join(pair.name for judge in judges for pair in judge.pairs) or "none"
    raise ConfigError(
        f"rerank needs a checkpoint that has learnt to match {' and '.join(sorted(modalities))}: a "
        "matching objective in pretraining, or head.matching of a retrieval head. This one has "
        f"learnt {has}"
    )


@dataclass
class _Place:
    offset: int
    length: int
    width: int


class TokenStore:
    """The tokens of samples by (source, modality, id), in a file that is gone when it is closed."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._places: dict[tuple[str, str, str], _Place] = {}
        self._end = 0

    def __enter__(self) -> TokenStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, source: str, batch: Batch, features: Mapping[Read, Features]) -> None:
        """Keep what was encoded of a batch, on every rank that of all ranks; collective."""
        mine: dict[tuple[str, str, str], Seen] = {}
        for found in features.values():
            for modality, tokens in found.tokens.items():
                valid, pooled = found.valid[modality].cpu(), found.pooled[modality].float().cpu()
                tokens = tokens.float().cpu()
                for row, sample in enumerate(found.rows[modality].tolist()):
                    # Without any valid token all of them count, as in attention.
                    kept = valid[row] if valid[row].any() else torch.ones_like(valid[row])
                    key = (source, modality, batch["sample_id"][sample])
                    mine[key] = (tokens[row][kept].numpy(), pooled[row].numpy())
        for part in distributed.all_gather_object(mine):
            for key, (tokens_np, pooled_np) in part.items():
                if key not in self._places:
                    self._append(key, tokens_np, pooled_np)

    def _append(
        self, key: tuple[str, str, str], tokens: NDArray[np.float32], pooled: NDArray[np.float32]
    ) -> None:
        data = np.concatenate([tokens, pooled[None]]).tobytes()
        self._file.write(data)
        self._places[key] = _Place(self._end, *tokens.shape)
        self._end += len(data)

    def get(self, source: str, modality: str, ids: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Of these samples tokens [n,L,D], which of them are there [n,L], pooled [n,D]."""
        self._file.flush()
        rows = [self._read(self._places[source, modality, sample]) for sample in ids]
        length = max(len(row) for row in rows) - 1
        tokens = torch.zeros(len(rows), length, rows[0].shape[1])
        valid = torch.zeros(len(rows), length, dtype=torch.bool)
        for at, row in enumerate(rows):
            tokens[at, : len(row) - 1] = row[:-1]
            valid[at, : len(row) - 1] = True
        return tokens, valid, torch.stack([row[-1] for row in rows])

    def _read(self, place: _Place) -> Tensor:
        size = (place.length + 1) * place.width
        data = os.pread(self._file.fileno(), size * 4, place.offset)
        return torch.frombuffer(bytearray(data), dtype=torch.float32).view(-1, place.width)


def best(queries: NDArray[Any], gallery: NDArray[Any], k: int) -> NDArray[np.int64]:
    """[Q,k] the rows of the gallery that are most similar, the best first, fewer where it is
    smaller.
    """
    similarity = queries.astype(np.float64) @ gallery.astype(np.float64).T
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


def judge(
    predictor: Any, store: TokenStore, query: Side, gallery: Side, candidates: NDArray[np.int64]
) -> Judged:
    """Judge each query beside each of its candidates; collective, the pairs shared by all ranks."""
    modalities = {*query.modalities, *gallery.modalities}
    matching = matching_of(predictor.task, modalities)
    model = predictor.task.model

    def logits(batch: Batch) -> Output:
        features = Features(batch_size=len(batch["sample_id"]))
        features.rows = batch["rows"]
        dtype = next(model.fusion.parameters()).dtype
        for modality in modalities:
            features.tokens[modality] = batch[f"{modality}_tokens"].to(dtype)
            features.valid[modality] = batch[f"{modality}_tokens_mask"]
            features.pooled[modality] = batch[f"{modality}_pooled"].to(dtype)
        fused = model.fuse(features, tuple(sorted(modalities)))
        assert fused.fused_pooled is not None
        return Output(predictions={"logit": matching.logits(fused.fused_pooled)})

    pairs = np.stack(
        [np.repeat(np.arange(len(candidates)), candidates.shape[1]), candidates.ravel()]
    )
    found = np.full(pairs.shape[1], np.nan)
    mine: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    for chosen in _shares(pairs.shape[1]):
        batch: Batch = {"rows": {}, "sample_id": [str(i) for i in chosen]}
        for side, rows in ((query, pairs[0, chosen]), (gallery, pairs[1, chosen])):
            for modality in side.modalities:
                tokens, valid, pooled = store.get(
                    side.source, modality, [side.ids[row] for row in rows]
                )
                batch["rows"][modality] = torch.arange(len(chosen))
                batch[f"{modality}_tokens"], batch[f"{modality}_tokens_mask"] = tokens, valid
                batch[f"{modality}_pooled"] = pooled
        logit = predictor.run(batch, use=logits).predictions["logit"]
        mine.append((chosen, logit.double().cpu().numpy()))
        distributed.place.work += 1
    for part in distributed.all_gather_object(mine):
        for chosen, logit in part:
            found[chosen] = logit
    return Judged(candidates, found.reshape(candidates.shape))


def _shares(total: int) -> Iterator[NDArray[np.int64]]:
    """This rank's blocks of 0…total-1, equally many on every rank: some come twice."""
    blocks = -(-total // AT_ONCE)
    ranks = distributed.world_size()
    for number in range(distributed.rank(), -(-blocks // ranks) * ranks, ranks):
        first = number % blocks * AT_ONCE
        yield np.arange(first, min(first + AT_ONCE, total))
