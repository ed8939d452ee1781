"""Where the item that came next stands among all items: what recommendation is judged by.

    found = predictor.rank_batches(data, place=1)  # the last of each history; 2: the one before

Every item is ranked but those that the user had before (the target itself always is), and an item
with the target's score counts half: a model that scores all items alike ranks like chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmfm import distributed
from mmfm.types import Batch

Ints = NDArray[np.int64]


@dataclass
class Ranked:
    """One entry a user, ordered by id: `rank` [n] of the target (1 is best, halves for ties) among
    `candidates` [n] items; `histories`: the rows of the user's items, the target last.

    `items`: how many there are; `held_out`: how many at the end of each history training has not
    seen; `too_short`: users without a target, or without an item before it.
    """

    row_ids: list[str]
    groups: Ints
    rank: NDArray[np.float64]
    candidates: Ints
    histories: list[Ints]
    items: int
    held_out: int
    too_short: int


def rank_held_out(
    scores: Callable[[Batch], Tensor], data: Iterable[Batch], place: int, held_out: int
) -> Ranked:
    """Rank the item at `place` from the end of each history (1 = last) by ``scores(batch)`` [B,N]
    after what comes before it; other samples are passed over. Collective.
    """
    mine: dict[str, tuple[int, float, int, Ints]] = {}
    short: set[str] = set()
    items = 0
    for batch in data:
        if "history" not in batch:  # samples of other kinds, in the same batches on all ranks
            continue
        history, length = batch["history"], batch["history_mask"].sum(1) - place
        places = torch.arange(history.shape[1])
        before = places[None, :] < length[:, None]
        given = {**batch, "history_mask": before}
        found = scores(given).float().cpu()
        items = found.shape[1]
        at = length.clamp(min=0)[:, None]
        target = history.gather(1, at)[:, 0]
        rank, candidates = mid_ranks(found, target, history, before)
        for row, sample in enumerate(batch["rows"]["history"].tolist()):
            name, n = batch["sample_id"][sample], int(length[row])
            if n < 1:
                short.add(name)
                continue
            group, until = int(batch["group"][sample]), history[row, : n + 1].numpy()
            mine[name] = (group, float(rank[row]), int(candidates[row]), until)
    parts = distributed.all_gather_object((mine, short, items))
    merged = {name: entry for part, _, _ in parts for name, entry in part.items()}
    ids = sorted(merged)
    entries = [merged[i] for i in ids]
    return Ranked(
        row_ids=ids,
        groups=np.array([e[0] for e in entries], dtype=np.int64),
        rank=np.array([e[1] for e in entries], dtype=np.float64),
        candidates=np.array([e[2] for e in entries], dtype=np.int64),
        histories=[e[3] for e in entries],
        items=max(part[2] for part in parts),
        held_out=held_out,
        too_short=len(set().union(*(part[1] for part in parts))),
    )


def next_items(
    scores: Callable[[Batch], Tensor], history: Sequence[int], k: int
) -> list[tuple[int, float]]:
    """The `k` items (rows) that are likeliest to follow `history` and not in it, the likeliest
    first, with their probabilities among all that are not in it.
    """
    rows = torch.tensor([list(history)])
    batch: Batch = {
        "history": rows,
        "history_mask": torch.ones_like(rows, dtype=torch.bool),
        "rows": {"history": torch.zeros(1, dtype=torch.int64)},
        "sample_id": ["0"],
    }
    logits = scores(batch)[0].float().cpu()
    logits[rows[0]] = -torch.inf
    best = logits.softmax(-1).topk(min(k, len(logits) - len(set(history))))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def mid_ranks(
    scores_BN: Tensor, target_B: Tensor, history_BL: Tensor, before_BL: Tensor
) -> tuple[Tensor, Tensor]:
    """The rank [B] of each target among all items but those of the history where `before`, and the
    number [B] of these candidates.
    """
    B, N = scores_BN.shape
    row, _ = before_BL.nonzero(as_tuple=True)
    candidate = torch.ones(B, N, dtype=torch.bool)
    candidate[row, history_BL[before_BL]] = False
    everyone = torch.arange(B)
    candidate[everyone, target_B] = True
    score_B1 = scores_BN[everyone, target_B][:, None]
    above = ((scores_BN > score_B1) & candidate).sum(1)
    tied = ((scores_BN == score_B1) & candidate).sum(1) - 1
    return 1 + above.double() + tied.double() / 2, candidate.sum(1)
