"""Samples ▶ the batch that the model gets (its keys are described in `mmfm.types`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mmfm.data.decode import Sample
from mmfm.data.feature_cache import CachedOutput
from mmfm.data.labels import collate_labels
from mmfm.data.transforms.base import Transform, Windows
from mmfm.types import Batch


def collate(samples: Sequence[Sample], transforms: Mapping[str, Transform]) -> Batch:
    """One batch of B samples; a modality that none of them has is left out.

    A sample with `Windows` is there once for each of them, ``window`` [B] counting from 0.
    """
    parts = [part for sample in samples for part in _parts(sample)]
    samples = [part for part, _ in parts]
    batch: Batch = {
        "sample_id": [s.sample_id for s in samples],
        "sample_hash": _int64([s.sample_hash for s in samples]),
        "group": _int64([s.group for s in samples]),
        "mask_seed": _int64([s.mask_seed for s in samples]),
        "masked_view": torch.tensor([s.masked_view for s in samples]),
        "stream": _int64([s.stream for s in samples]),
        "rows": {},
    }
    if any(number for _, number in parts):
        batch["window"] = _int64([number for _, number in parts])
    if any(s.negative for s in samples):
        batch["negative"] = torch.tensor([s.negative for s in samples])
    labels = [s.label for s in samples if s.label is not None]
    if labels:
        assert len(labels) == len(samples)
        batch["labels"] = collate_labels(labels)
    for modality, transform in transforms.items():
        rows = [i for i, s in enumerate(samples) if modality in s.inputs or modality in s.cached]
        if not rows:
            continue
        batch["rows"][modality] = _int64(rows)
        if modality in samples[rows[0]].inputs:
            batch |= transform.collate([samples[i].inputs[modality] for i in rows])
        if modality in samples[rows[0]].cached:
            outputs = [samples[i].cached[modality] for i in rows]
            batch |= {f"{modality}_{k}": v for k, v in _collate_outputs(outputs).items()}
    return batch


def _parts(sample: Sample) -> Iterator[tuple[Sample, int]]:
    """The sample, or one for each window, numbered; all have what else it has."""
    windows = {m: found for m, found in sample.inputs.items() if isinstance(found, Windows)}
    if not windows:
        yield sample, 0
    for modality, found in windows.items():
        assert len(windows) == 1, "only one modality of a sample can be in windows"
        for number, window in enumerate(found):
            yield replace(sample, inputs={**sample.inputs, modality: window}), number


def _collate_outputs(outputs: Sequence[CachedOutput]) -> dict[str, Tensor]:
    """tokens [B, L, D] float32 and tokens_mask [B, L], padded to the longest; pooled [B, D]."""
    length = max(len(o.tokens) for o in outputs)
    tokens = torch.zeros(len(outputs), length, outputs[0].tokens.shape[1])
    mask = torch.zeros(len(outputs), length, dtype=torch.bool)
    for row, output in enumerate(outputs):
        tokens[row, : len(output.tokens)] = torch.from_numpy(output.tokens)
        mask[row, : len(output.mask)] = torch.from_numpy(output.mask)
    pooled = torch.from_numpy(np.stack([o.pooled for o in outputs])).float()
    return {"tokens": tokens, "tokens_mask": mask, "pooled": pooled}


def _int64(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)
