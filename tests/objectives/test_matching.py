"""Matching against brute force, sample by sample; the fusion runs wherever the composition says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmfm.config import ConfigError, from_dict
from mmfm.masking import derive_seed, salt, uniform
from mmfm.task import PretrainTask, PretrainTaskConfig
from mmfm.types import Batch, Features, Read
from tests import tiny

PAIRS = [["image", "text"], ["text", "audio"], ["audio+image", "text"]]


def build(tokenizer: str, dropout: float = 0.0, objectives: dict | None = None, **settings):
    task = tiny.task_settings(tokenizer, dropout)
    matching = {"type": "matching", "pairs": PAIRS, **settings}
    task["objectives"] = {**(objectives or {}), "matching": matching}
    torch.manual_seed(0)
    task = PretrainTask.build(from_dict(PretrainTaskConfig, task))
    for parameter in task.parameters():
        torch.nn.init.normal_(parameter, std=max(parameter.shape[-1], 16) ** -0.5)
    return task


def reference(task: PretrainTask, batch: Batch, name: str = "matching") -> dict[str, Tensor]:
    """Mean losses of a global batch: what each sample has is encoded alone, each match and each
    mismatch fused beside those of the same modalities.
    """
    objective, found = task.objectives[name], {}
    alone = {
        (m, sample): encode_alone(task, batch, m, row)
        for m, rows in batch["rows"].items()
        for row, sample in enumerate(rows.tolist())
    }
    for pair in objective.pairs:
        sides = (pair.a, pair.b)
        samples = [
            i
            for i in range(tiny.GLOBAL_BATCH)
            if all(any((m, i) in alone for m in s) for s in sides)
        ]
        claims = []
        for i in samples:
            claims.append((dict.fromkeys(pair.a + pair.b, i), -1.0))
            for kept, replaced in (sides, sides[::-1]):
                j = negative(alone, batch, i, samples, kept, replaced, pair)
                if j is not None:
                    claims.append((dict.fromkeys(kept, i) | dict.fromkeys(replaced, j), 1.0))
        if claims:
            found[pair.name] = claim_losses(task, objective, alone, claims).mean()
    return found


def encode_alone(task: PretrainTask, batch: Batch, m: str, row: int) -> Features:
    part: Batch = {"rows": {m: torch.tensor([0])}, "sample_id": ["0"]}
    part |= {key: batch[key][row : row + 1] for key in (m, f"{m}_mask") if key in batch}
    return task.model.encode(part, [m])


Alone = dict[tuple[str, int], Features]


Claim = tuple[dict[str, int], float]
"""Modality ▶ sample, and -1 where they belong together."""


def claim_losses(task: PretrainTask, objective, alone: Alone, claims: list[Claim]) -> Tensor:
    """Those whose samples have the same modalities at once."""
    kinds: dict[tuple[str, ...], list[Claim]] = {}
    for source, sign in claims:
        present = tuple(m for m, sample in source.items() if (m, sample) in alone)
        kinds.setdefault(present, []).append((source, sign))
    losses = []
    for present, alike in kinds.items():
        parts = Features(batch_size=len(alike))
        for m in present:
            of = [alone[m, source[m]] for source, _ in alike]
            for key in ("tokens", "valid", "pooled"):
                getattr(parts, key)[m] = torch.cat([getattr(one, key)[m] for one in of])
            parts.rows[m] = torch.arange(len(alike))
        pooled = task.model.fuse(parts, list(present)).fused_pooled
        logits = pooled @ objective.classify.weight.T + objective.classify.bias
        losses.append(F.softplus(torch.tensor([[sign] for _, sign in alike]) * logits))
    return torch.cat(losses)


def direction(alone: Alone, modalities: tuple[str, ...], sample: int) -> Tensor:
    has = [alone[m, sample].embedding[m][0].double() for m in modalities if (m, sample) in alone]
    return F.normalize(torch.stack(has).sum(0), dim=0)


@torch.no_grad()
def negative(alone: Alone, batch: Batch, i: int, samples, kept, replaced, pair) -> int | None:
    """The best of similarity and noise among the samples that may stand for i."""
    seed = derive_seed(batch["mask_seed"], salt(f"instead of {'+'.join(replaced)}"))
    temperature = pair.mismatched[0].temperature
    best, score = None, -torch.inf
    for j in samples:
        same_stream = batch["stream"][i] == batch["stream"][j]
        if same_stream and batch["group"][i] != batch["group"][j]:
            noise = -(-uniform(seed[i : i + 1], seed[j : j + 1]).log()).log().item()
            similar = (direction(alone, kept, i) @ direction(alone, replaced, j)).item()
            if similar / temperature + noise > score:
                best, score = j, similar / temperature + noise
    return best


def doubled(batch: Batch) -> Batch:
    return {k: v.double() if k in ("image", "audio") else v for k, v in batch.items()}


@pytest.mark.parametrize("gone", ["", "audio", "image"])
def test_equals_brute_force(tokenizer, gone: str) -> None:
    """Losses and gradients, in double precision up to the logits."""
    task = build(tokenizer).double()
    batch = doubled(tiny.make_batch(1, gone or None))
    want = reference(task, batch)
    prepared = task.prepare(batch)
    got = task(prepared).losses
    assert set(got) == {f"matching/{name}" for name in ("image_text", "text_audio",
                                                        "audio+image_text")}  # fmt: skip
    for pair in ("image_text", "text_audio", "audio+image_text"):
        total, count = got[f"matching/{pair}"]
        if pair not in want:
            assert (total.item(), count.item()) == (0.0, 0.0)
            continue
        assert (total / count).item() == pytest.approx(want[pair].item(), rel=2e-7)
    gradients = []
    for loss in (sum(want.values()), task.total(got, task.counts(prepared))):
        task.zero_grad()
        loss.backward()
        gradients.append(
            {n: p.grad.clone() for n, p in task.named_parameters() if p.grad is not None}
        )
    assert set(gradients[0]) == set(gradients[1])
    for name, gradient in gradients[0].items():
        off = (gradients[1][name] - gradient).norm() / gradient.norm().clamp(min=1e-12)
        assert off < 1e-6, name


def test_the_draw_teaches_nothing(tokenizer) -> None:
    """Similarities only choose: no gradient reaches the projections."""
    task = build(tokenizer)
    batch = task.prepare(tiny.make_batch(0))
    task.total(task(batch).losses, task.counts(batch)).backward()
    for name, parameter in task.named_parameters():
        assert (parameter.grad is None) == ("projections" in name and "fusion" not in name), name


def test_whole_streams_make_the_same_sums(tokenizer) -> None:
    task = build(tokenizer).double()
    batch = doubled(tiny.make_batch(0))
    whole = task(task.prepare(batch)).losses
    for world_size, size in ((1, 8), (1, 4), (2, 4), (4, 4)):
        parts = [
            task(task.prepare(part)).losses
            for rank in range(world_size)
            for part in tiny.micro_batches(batch, rank, world_size, size)
        ]
        for name, (total, count) in whole.items():
            assert sum(p[name][1].item() for p in parts) == count.item()
            # Sums of some fp32 numbers.
            assert sum(p[name][0].item() for p in parts) == pytest.approx(total.item(), rel=1e-6)


@pytest.mark.parametrize("gone", [None, "image", "text", "audio"])
@pytest.mark.parametrize("groups", [1, 2, 100])
def test_counts_are_known_beforehand(tokenizer, gone: str | None, groups: int) -> None:
    task = build(tokenizer)
    batch = tiny.make_batch(4, gone)
    batch["group"] = torch.arange(tiny.GLOBAL_BATCH) // SAMPLES_OF[groups]
    batch = task.prepare(batch)
    counts, losses = task.counts(batch), task(batch).losses
    assert set(counts) == set(losses)
    for name, (total, count) in losses.items():
        assert counts[name].item() == count.item()
        assert counts[name].dtype == torch.float64
        assert (total.item() > 0) == (count.item() > 0)
    if gone is None:
        both = {"image_text": 24, "text_audio": 24, "audio+image_text": 32}
        for pair, samples in both.items():
            assert counts[f"matching/{pair}"].item() == samples * (1 if groups == 1 else 3)


# Groups of so many samples in a row: one for each stream, two halves of a stream, all different.
SAMPLES_OF = {1: 4, 2: 2, 100: 1}


def test_without_negatives_the_fusion_still_runs(tokenizer) -> None:
    """Under ZeRO-3 each of its runs is collective, and another rank may have negatives."""
    task = build(tokenizer, pairs=[["image", "text"]])
    runs = []
    task.model.fusion.register_forward_hook(lambda _, args, out: runs.append(args[1]))
    batch = tiny.make_batch(0)
    batch["group"] = torch.zeros_like(batch["group"])
    total, count = task(task.prepare(batch)).losses["matching/image_text"]
    assert runs == [tiny.GLOBAL_BATCH, 0, 0]
    assert count.item() == tiny.STREAMS * 3
    total.backward()
    assert all(p.grad.isfinite().all() for p in task.parameters() if p.grad is not None)


def test_the_fusion_does_not_run_for_what_a_step_lacks(tokenizer) -> None:
    task = build(tokenizer, pairs=[["image", "text"]])
    runs = []
    task.model.fusion.register_forward_hook(lambda _, args, out: runs.append(args[1]))
    total, count = task(task.prepare(tiny.make_batch(0, "text"))).losses["matching/image_text"]
    assert (total.item(), count.item(), total.requires_grad) == (0.0, 0.0, False)
    assert len(runs) == 1  # of the pictures alone, which others may read


def test_dropout_is_of_the_read(noisy_pair) -> None:
    """The same whatever else is read, another one for each mismatch."""
    alone, beside = noisy_pair
    batch = {**tiny.make_batch(0), "dropout_seed": 3}
    one, other = (task(task.prepare(batch)).losses for task in (alone, beside))
    for name in one:
        assert torch.equal(one[name][0], other[name][0])
    again = alone(alone.prepare({**batch, "dropout_seed": 4})).losses
    assert not torch.equal(one["matching/image_text"][0], again["matching/image_text"][0])


@pytest.fixture
def noisy_pair(tokenizer) -> list[PretrainTask]:
    others = tiny.task_settings(tokenizer)["objectives"]
    alone, beside = build(tokenizer, 0.3), build(tokenizer, 0.3, others)
    alone.load_state_dict({k: v for k, v in beside.state_dict().items() if k in alone.state_dict()})
    return [alone.train(), beside.train()]


def test_probability_is_the_sigmoid_of_the_logit(tokenizer) -> None:
    task = build(tokenizer, pairs=[["image", "text"]]).eval()
    objective, batch = task.objectives["matching"], tiny.make_batch(0)
    own = Read("clean", ("image", "text"), fused=True)
    assert objective.reads[0] == own
    pooled = task.features(batch, [own])[own].fused_pooled
    found = objective.probability(pooled)
    both = sorted(set(batch["rows"]["image"].tolist()) & set(batch["rows"]["text"].tolist()))
    layer = objective.classify
    want = 1 / (
        1 + (-(pooled[both].double() @ layer.weight[0].double() + layer.bias.double())).exp()
    )
    torch.testing.assert_close(found[both].double(), want, rtol=1e-6, atol=1e-7)
    matches, count = task(task.prepare(batch)).losses["matching/image_text"]
    assert -found[both].log().sum().item() < matches.item()  # the mismatches cost the rest
    assert count.item() == 3 * len(both)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs": []}, r"pairs = \[\]: needs a list of pairs"),
        ({"pairs": [["image", "text", "audio"]]}, "needs a list of pairs"),
        ({"pairs": [["image", "smell"]]}, r"\[image, smell\] names 'smell', the model has only"),
        ({"pairs": [["image", "image+text"]]}, r"\[image, image\+text\] share a modality"),
        ({"pairs": [["image", "text"], ["text", "image"]]}, "two of them are of the same"),
        ({"temperature": 0.0}, r"temperature = 0\.0 must be above 0"),
        ({"weight": 0.0}, "weight must be above 0"),
    ],
)
def test_refusals(tokenizer, settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tokenizer, **settings)


def test_it_needs_a_fusion(tokenizer) -> None:
    settings = tiny.task_settings(tokenizer)
    settings["objectives"] = {"m": {"type": "matching"}}
    settings["model"]["fusion"] = None
    with pytest.raises(ConfigError, match=r"objectives\.m: matching judges fused features"):
        PretrainTask.build(from_dict(PretrainTaskConfig, settings))
