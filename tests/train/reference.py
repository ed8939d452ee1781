"""The whole recipe in plain PyTorch, in one process, on the whole global batch: what the trainer
must equal.

It shares the encoders with mmfm, whose outputs have tests of their own, and nothing of the task,
the objectives' losses, the trainer or the distributed code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmfm.masking import derive_seed, draw_mask
from mmfm.task import PretrainTask, _salt
from mmfm.types import Batch
from tests.tiny import take_samples

RATIOS = {"text": 0.4, "image": 0.5, "audio": 0.5}
PAIRS = (("image", "text"), ("audio", "text"), ("audio+image", "text"))


def losses(task: PretrainTask, batch: Batch) -> dict[str, Tensor]:
    """Mean losses of a global batch, by the names that the trainer uses."""
    model, objectives = task.model, task.objectives
    present = [m for m in model.encoders if m in batch]
    clean = model.encode(batch, present)
    masks, whole = {}, batch
    if "masked_view" in batch:  # as if there were no others; what they are numbered is no matter
        batch = take_samples(batch, batch["masked_view"].nonzero()[:, 0])
    for m in present:
        maskable = model.encoder(m).maskable(batch[m], batch.get(f"{m}_mask"))
        seeds = derive_seed(batch["mask_seed"][batch["rows"][m]], _salt(m))
        masks[m] = draw_mask(maskable, RATIOS[m], seeds)
    masked = model.fuse(model.encode(batch, present, "masked", masks), present)
    hidden_batch, batch, found = batch, whole, {}
    scale = objectives["contrastive"].logit_scale.log_scale.exp()
    for left, right in PAIRS:
        sides = []
        for side in (left, right):
            wanted = side.split("+")
            if len(wanted) > 1 and any(m in present for m in wanted):
                fused = model.fuse(clean, [m for m in wanted if m in present])
                sides.append(
                    dict(zip(fused.rows["fused"].tolist(), fused.embedding["fused"], strict=True))
                )
            elif wanted[0] in present:
                m = wanted[0]
                sides.append(dict(zip(clean.rows[m].tolist(), clean.embedding[m], strict=True)))
            else:
                sides.append({})
        both = sorted(set(sides[0]) & set(sides[1]))
        if both:
            a, b = (torch.stack([side[i] for i in both]) for side in sides)
            group = batch["group"][both].tolist()
            found[f"contrastive/{left}_{right}"] = _info_nce(a, b, group, scale)
    text = objectives["masked_text"]
    if "text" in present:
        hidden = masks["text"]
        words = model.encoder("text").embedding.weight
        logits = text.transform(masked.fused["text"][hidden]) @ words.T + text.words.bias
        found["masked_text/masked_text"] = F.cross_entropy(logits, hidden_batch["text"][hidden])
    for m in ("image", "audio"):
        if m in present:
            found[f"masked_{m}/masked_{m}"] = _masked_patches(task, masked, masks[m], m)
    return found


def total(task: PretrainTask, found: dict[str, Tensor]) -> Tensor:
    return sum(task.weights[name.split("/")[0]] * loss for name, loss in found.items())


def _info_nce(a: Tensor, b: Tensor, group: list[int], scale: Tensor) -> Tensor:
    rows = []
    for x, y in ((a, b), (b, a)):
        for i in range(len(x)):
            others = [j for j in range(len(y)) if j == i or group[j] != group[i]]
            logits = scale * torch.stack([x[i] @ y[j] for j in others])
            rows.append(-torch.log_softmax(logits.flatten(), 0)[others.index(i)])
    return torch.stack(rows).mean()


def _masked_patches(task: PretrainTask, masked, hidden: Tensor, m: str) -> Tensor:
    objective = task.objectives[f"masked_{m}"]
    errors = []
    for row in range(len(hidden)):
        grid = objective.mask_token.expand(hidden.shape[1], -1).clone()
        seen = hidden[row].clone()
        for k, position in enumerate(masked.kept[m][row].tolist()):
            if position >= 0 and masked.valid[m][row, k]:
                grid[position] = objective.embed(masked.fused[m][row, k])
                seen[position] = True
        x = (grid + objective.position[: len(grid)])[None]
        predicted = objective.predict(objective.decoder(x, seen[None]))[0][hidden[row]]
        target = masked.targets[m][row][hidden[row]]
        target = (target - target.mean(1, keepdim=True)) / (
            target.var(1, keepdim=True) + 1e-6
        ).sqrt()
        errors.append((predicted - target).square().mean(1))
    return torch.cat(errors).mean()
