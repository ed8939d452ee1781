"""`counts` says before any encoder runs what `forward` will return, whatever a batch lacks."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from mmfm.config import from_dict
from mmfm.task import PretrainTask, PretrainTaskConfig
from tests import tiny

MODALITIES = ("image", "text", "audio")


@pytest.fixture(scope="module")
def task(tokenizer) -> PretrainTask:
    return tiny.make_task(tokenizer)


def lacking(batch, gone):
    """The batch without some modalities."""
    for m in gone:
        for key in (m, f"{m}_mask"):
            batch.pop(key, None)
        batch["rows"].pop(m)
    return batch


SUBSETS = [gone for n in range(4) for gone in combinations(MODALITIES, n)]


@pytest.mark.parametrize("gone", SUBSETS, ids=lambda gone: "-".join(gone) or "none")
def test_counts_are_those_of_the_losses(task, gone) -> None:
    batch = task.prepare(lacking(tiny.make_batch(3), gone))
    counts = task.counts(batch)
    losses = task(batch).losses
    assert set(counts) == set(losses)
    for name, (total, count) in losses.items():
        assert counts[name].dtype == torch.float64
        assert counts[name].ndim == 0
        assert counts[name].item() == count.item(), name
        assert total.isfinite()
        if not count.item():
            assert total.item() == 0.0
    total = task.total(losses, counts)
    assert total.isfinite()
    # Nothing to compare is no loss: a step that has none of the modalities does not break.
    if len(gone) == 3:
        assert total.item() == 0.0


def test_which_terms_a_missing_modality_empties(task) -> None:
    counts = task.counts(task.prepare(lacking(tiny.make_batch(0), ["audio"])))
    assert {name for name, n in counts.items() if not n} == {
        "contrastive/audio_text", "masked_audio/masked_audio",
    }  # fmt: skip
    # The fused side is there as long as one of its modalities is.
    rows = tiny.make_batch(0)["rows"]
    both = set(rows["image"].tolist()) & set(rows["text"].tolist())
    assert counts["contrastive/audio+image_text"].item() == len(both)
    any_of_two = set(rows["image"].tolist()) | set(rows["audio"].tolist())
    either = len(any_of_two & set(rows["text"].tolist()))
    whole = task.counts(task.prepare(tiny.make_batch(0)))
    assert whole["contrastive/audio+image_text"].item() == either > len(both)


def test_samples_that_lack_a_modality_are_no_pair(task) -> None:
    """Sample by sample: the counts add up over any split of the batch."""
    batch = tiny.make_batch(1)
    whole = task.counts(task.prepare(batch))
    parts = []
    for i in range(tiny.GLOBAL_BATCH):
        part = tiny.take_samples(batch, torch.tensor([i]))
        part = lacking(part, [m for m, rows in part["rows"].items() if not len(rows)])
        parts.append(task.counts(task.prepare(part)))
    for name, count in whole.items():
        assert sum(p[name].item() for p in parts) == count.item(), name


def test_weights_and_global_counts_make_the_total(task) -> None:
    batch = task.prepare(tiny.make_batch(2))
    losses = task(batch).losses
    doubled = {name: 2 * count for name, count in task.counts(batch).items()}
    want = sum(
        task.weights[name.split("/")[0]] * total.item() / (2 * count.item())
        for name, (total, count) in losses.items()
    )
    assert task.weights["masked_audio"] == 0.5
    assert task.total(losses, doubled).item() == pytest.approx(want, rel=1e-6)


def test_weights_follow_the_step(tokenizer) -> None:
    settings = tiny.task_settings(tokenizer)
    settings["objectives"]["masked_audio"] |= {"start_step": 2, "ramp_steps": 4, "end_step": 8}
    task = PretrainTask.build(from_dict(PretrainTaskConfig, settings))
    assert set(task.weight_at) == {"masked_audio"}
    got = []
    for step in range(10):
        task.set_step(step)
        got.append(task.weights.pop("masked_audio"))
        assert set(task.weights.values()) == {1.0}
    assert got == [0, 0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0, 0]


def test_an_objective_of_weight_zero_moves_nothing(tokenizer) -> None:
    settings = tiny.task_settings(tokenizer)
    for later in ("contrastive", "masked_audio"):
        settings["objectives"][later]["start_step"] = 1
    task = PretrainTask.build(from_dict(PretrainTaskConfig, settings))
    batch = task.prepare(tiny.make_batch(2))
    for step, moves in ((0, False), (1, True)):
        task.set_step(step)
        task.zero_grad()
        losses = task(batch).losses
        task.total(losses, task.counts(batch)).backward()
        assert set(losses) == set(task.counts(batch))
        for name in ("contrastive", "masked_audio"):
            assert any(p.grad.any() for p in task.objectives[name].parameters()) == moves, name


def test_conflicting_mask_ratios_are_refused(tokenizer) -> None:
    settings = tiny.task_settings(tokenizer)
    other = {**settings["objectives"]["masked_text"], "mask_ratio": 0.2, "context": []}
    settings["objectives"]["more"] = other
    with pytest.raises(ValueError, match=r"objectives\.more masks 0\.2 of 'text', another .* 0\.4"):
        PretrainTask.build(from_dict(PretrainTaskConfig, settings))
    other["mask_ratio"] = 0.4
    PretrainTask.build(from_dict(PretrainTaskConfig, settings))
