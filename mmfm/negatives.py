"""Hard negatives: for each sample another one that it could be mistaken for, and is not.

    read = Read("clean", ("image", "text"), fused=True, replaced=("text",))
    parts = mismatched(features, batch, read)  # each picture beside another sample's text

A negative is drawn by the similarity of the single embeddings (as in ALBEF, arXiv:2107.07651) among
the samples of the same canonical stream and of another `group` that have both sides of the pair.
A micro-batch holds whole streams, and the noise of the draw comes from the `mask_seed` of the two
samples, so a sample's negative depends neither on the number of ranks nor on the micro-batch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mmfm.masking import derive_seed, salt, uniform
from mmfm.types import Batch, Features, Read


def having(rows: Mapping[str, Tensor], modalities: Collection[str], size: int) -> Tensor:
    """[size] bool: the samples that have any of `modalities`."""
    device = next(iter(rows.values())).device if rows else None
    has = torch.zeros(size, dtype=torch.bool, device=device)
    for modality in modalities:
        if modality in rows:
            has[rows[modality]] = True
    return has


def of_step(batch: Batch) -> Tensor:
    """[B] bool: the samples of the step itself, not those that are there as negatives only."""
    negative: Tensor | None = batch.get("negative")
    return torch.ones_like(batch["group"], dtype=torch.bool) if negative is None else ~negative


def streams(batch: Batch) -> Tensor:
    """[B] int64: the canonical stream of each sample; all of one where the batch doesn't say."""
    stream: Tensor | None = batch.get("stream")
    return torch.zeros_like(batch["group"]) if stream is None else stream


def negatives_exist(group_N: Tensor, stream_N: Tensor) -> Tensor:
    """[N] bool: whether a sample of the same stream is of another group."""
    found = torch.zeros_like(group_N, dtype=torch.bool)
    for members in _by_stream(stream_N):
        group = group_N[members]
        found[members] = (group != group[0]).any()
    return found


def draw_negatives(
    query_NE: Tensor,
    key_NE: Tensor,
    group_N: Tensor,
    stream_N: Tensor,
    seed_N: Tensor,
    temperature: float,
) -> Tensor:
    """[N] int64: the negative of each sample, -1 where there is none.

    Among its candidates sample i draws j with the probability softmax(query_i · key_j /
    temperature): the largest sum of logit and Gumbel noise wins. In float64, so that rounding moves
    no draw.
    """
    chosen = torch.full_like(group_N, -1)
    for members in _by_stream(stream_N):
        logits = query_NE[members].double() @ key_NE[members].double().T / temperature
        seed, group = seed_N[members], group_N[members]
        noise = -(-uniform(seed, seed).clamp(min=2.0**-54).log()).log()
        candidate = group[:, None] != group[None, :]
        best = (logits + noise).masked_fill(~candidate, -torch.inf).argmax(1)
        chosen[members] = torch.where(candidate.any(1), members[best], -1)
    return chosen


def mismatched(features: Features, batch: Batch, read: Read) -> Features:
    """What `read` fuses: the modalities that it keeps of each sample that has a negative, numbered
    as before, and under the same numbers those that it replaces, of the negatives.

    `features` are clean ones of the same batch, with the embeddings of all modalities of the read.
    """
    rows, size = features.rows, features.batch_size
    both = having(rows, read.kept, size) & having(rows, read.replaced, size) & of_step(batch)
    samples = both.nonzero()[:, 0]
    negative = draw_negatives(
        _side(features, read.kept)[samples],
        _side(features, read.replaced)[samples],
        batch["group"][samples],
        streams(batch)[samples],
        derive_seed(batch["mask_seed"][samples], salt(f"instead of {'+'.join(read.replaced)}")),
        read.temperature,
    )
    exists = negative >= 0
    own, other = samples[exists], samples[negative[exists]]
    parts = Features(batch_size=features.batch_size)
    for modality in read.modalities:
        if modality in rows:
            source = other if modality in read.replaced else own
            _take(parts, features, modality, source, own)
    return parts


def _by_stream(stream_N: Tensor) -> Iterator[Tensor]:
    """The places of each stream's samples, ascending."""
    for stream in torch.unique(stream_N).tolist():
        yield (stream_N == stream).nonzero()[:, 0]


def _side(features: Features, modalities: Collection[str]) -> Tensor:
    """[B,E] float64, without gradient: the mean direction of what each sample has of
    `modalities`.
    """
    present = [m for m in modalities if m in features.rows]
    first = features.embedding[present[0]]
    total = first.new_zeros(features.batch_size, first.shape[1], dtype=torch.float64)
    for m in present:
        total = total.index_add(0, features.rows[m], features.embedding[m].detach().double())
    return F.normalize(total, dim=-1)


def _take(
    parts: Features, features: Features, modality: str, source_N: Tensor, as_N: Tensor
) -> None:
    """Put the rows of the samples `source` into `parts`, as rows of the samples `as_N`."""
    row_B = torch.full((features.batch_size,), -1, device=source_N.device)
    rows = features.rows[modality]
    row_B[rows] = torch.arange(len(rows), device=rows.device)
    row_N = row_B[source_N]
    there = row_N >= 0
    parts.rows[modality] = as_N[there]
    for name in ("tokens", "valid", "pooled", "embedding"):
        getattr(parts, name)[modality] = getattr(features, name)[modality][row_N[there]]
