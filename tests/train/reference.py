"""The whole recipe in plain PyTorch, in one process, on the whole global batch: what the trainer
must equal.

It shares the encoders and the fusion with mmfm, whose outputs have tests of their own, and nothing
of the task, the objectives' losses, the trainer or the distributed code. The losses of single
objectives are those that the objectives' own tests compare with.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmfm.masking import derive_seed, draw_mask, salt
from mmfm.model import Model
from mmfm.task import PretrainTask
from mmfm.types import Batch
from tests.objectives.test_caption import reference as caption
from tests.objectives.test_distillation import (
    reference_embedding,
    reference_feature,
    reference_logit,
)
from tests.objectives.test_matching import reference as matching
from tests.objectives.test_sigmoid import reference as sigmoid
from tests.tiny import take_samples

RATIOS = {"text": 0.4, "image": 0.5, "audio": 0.5}


def losses(task: PretrainTask, batch: Batch, teacher: Model) -> dict[str, Tensor]:
    """Mean losses of a global batch, by the names that the trainer uses."""
    found: dict[str, Tensor] = {}
    for name in task.objectives:
        of_one = OF.get(name, _masked)(task, batch, name, teacher)
        found |= {f"{name}/{term}": loss for term, loss in of_one.items()}
    return found


def total(task: PretrainTask, found: dict[str, Tensor]) -> Tensor:
    return sum(task.weights[name.split("/")[0]] * loss for name, loss in found.items())


def _pairs(model: Model, batch: Batch, sides: tuple[str, str]) -> tuple[Tensor, Tensor, list[int]]:
    """Embeddings of both sides and the groups, of the samples that have both."""
    a, b = (_embeddings(model, batch, side) for side in sides)
    both = sorted(set(a) & set(b))
    pick = [torch.stack([side[i] for i in both]) if both else torch.empty(0) for side in (a, b)]
    return pick[0], pick[1], batch["group"][both].tolist()


def _embeddings(model: Model, batch: Batch, side: str) -> dict[int, Tensor]:
    """Sample ▶ its embedding."""
    wanted = [m for m in side.split("+") if m in batch]
    if not wanted:
        return {}
    found, key = model.encode(batch, wanted), side
    if "+" in side:
        found, key = model.fuse(found, wanted), "fused"
    return dict(zip(found.rows[key].tolist(), found.embedding[key], strict=True))


def _compared(task: PretrainTask, batch: Batch, name: str, teacher: Model) -> dict[str, Tensor]:
    """Contrastive, sigmoid and the teacher's affinities."""
    objective, found = task.objectives[name], {}
    for reads in objective.pairs:
        sides = tuple("+".join(read.modalities) for read in reads)
        a, b, group = _pairs(task.model, batch, sides)
        if not group:
            continue
        if name == "affinity":
            with torch.no_grad():
                theirs = _pairs(teacher, batch, sides)[:2]
            loss = reference_logit((a, b), theirs, objective.temperature)
        else:
            scale = objective.logit_scale.log_scale.exp()
            bias = objective.logit_bias.bias if name == "sigmoid" else None
            of_pairs = _info_nce(a, b, group, scale) if bias is None else None
            loss = sigmoid([a, b, scale, bias], group, "mask") if of_pairs is None else of_pairs
        found["_".join(sides)] = loss
    return found


def _matching(task: PretrainTask, batch: Batch, name: str, teacher: Model) -> dict[str, Tensor]:
    return matching(task, batch, name)


def _caption(task: PretrainTask, batch: Batch, name: str, teacher: Model) -> dict[str, Tensor]:
    return caption(task, batch, name)


def _taught(task: PretrainTask, batch: Batch, name: str, teacher: Model) -> dict[str, Tensor]:
    """The teacher's embedding and features of one modality."""
    objective = task.objectives[name]
    modality = objective.read.modalities[0]
    if modality not in batch:
        return {}
    if name == "embedding":
        with torch.no_grad():
            theirs = {i: x.double() for i, x in _embeddings(teacher, batch, modality).items()}
        ours = {i: x.double() for i, x in _embeddings(task.model, batch, modality).items()}
        loss = reference_embedding(ours, theirs, objective.project.weight, "cosine")
    else:
        ours = task.model.encode(batch, [modality])
        with torch.no_grad():
            theirs = teacher.encode(batch, [modality])
        valid = ours.valid[modality]
        tokens = [features.tokens[modality][valid] for features in (ours, theirs)]
        loss = reference_feature(*tokens, objective.project)
    return {modality: loss}


def _masked(task: PretrainTask, batch: Batch, name: str, teacher: Model) -> dict[str, Tensor]:
    model, objective = task.model, task.objectives[name]
    masks = {}
    if objective.modality not in batch:
        return {}
    if "masked_view" in batch:  # as if there were no others; what they are numbered is no matter
        batch = take_samples(batch, batch["masked_view"].nonzero()[:, 0])
    present = [m for m in model.encoders if m in batch]
    ratios = {m: RATIOS[m] for m in present if m in task.mask_ratios}
    for m, ratio in ratios.items():
        maskable = model.encoder(m).maskable(batch[m], batch.get(f"{m}_mask"))
        seeds = derive_seed(batch["mask_seed"][batch["rows"][m]], salt(m))
        masks[m] = draw_mask(maskable, ratio, seeds)
    masked = model.fuse(model.encode(batch, present, "masked", masks), present)
    hidden = masks[objective.modality]
    if name == "masked_text":
        words = model.encoder("text").embedding.weight
        logits = objective.transform(masked.fused["text"][hidden]) @ words.T + objective.words.bias
        return {"masked_text": F.cross_entropy(logits, batch["text"][hidden])}
    return {name: _masked_patches(objective, masked, hidden, objective.modality)}


OF = {
    "contrastive": _compared,
    "sigmoid": _compared,
    "affinity": _compared,
    "matching": _matching,
    "caption": _caption,
    "embedding": _taught,
    "feature": _taught,
}


def _info_nce(a: Tensor, b: Tensor, group: list[int], scale: Tensor) -> Tensor:
    rows = []
    for x, y in ((a, b), (b, a)):
        for i in range(len(x)):
            others = [j for j in range(len(y)) if j == i or group[j] != group[i]]
            logits = scale * (y[others] @ x[i])
            rows.append(-torch.log_softmax(logits, 0)[others.index(i)])
    return torch.stack(rows).mean()


def _masked_patches(objective, masked, hidden: Tensor, m: str) -> Tensor:
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
