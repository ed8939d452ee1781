"""Mixup and CutMix: what is mixed with what, by how much, and never across streams."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import mmfm
from mmfm.config import ConfigError
from mmfm.heads._mixing import MIXED_SHARE, MIXED_WITH, MixConfig, mix
from mmfm.types import IGNORE_INDEX, Batch
from tests import tiny
from tests.heads.test_classification import NAMES, build, labelled


def mixed(batch: Batch, modalities: tuple[str, ...] = ("image",), **config: float) -> Batch:
    return mix(MixConfig(**config), batch, modalities)


def test_mixup_takes_the_share_of_both_and_leaves_the_batch_alone() -> None:
    batch = labelled()
    before = batch["image"].clone()
    found = mixed(batch, mixup=0.5)
    assert torch.equal(batch["image"], before)
    partner, share = found[MIXED_WITH], found[MIXED_SHARE]
    row_of = {s: r for r, s in enumerate(batch["rows"]["image"].tolist())}
    changed = 0
    for sample, row in row_of.items():
        other = int(partner[sample])
        own = before[row]
        want = share[sample] * own + (1 - share[sample]) * before[row_of[other]]
        torch.testing.assert_close(found["image"][row], want)
        changed += other != sample
    assert changed > len(row_of) / 2
    drawn = share[partner != torch.arange(len(share))]
    assert 0 <= drawn.min() < 0.3
    assert 0.6 < drawn.max() < 1


def test_partners_are_of_the_same_stream_and_kind_and_have_a_label() -> None:
    batch = labelled()
    found = mixed(batch, ("image", "audio"), mixup=1.0)
    partner = found[MIXED_WITH]
    has = {
        m: torch.zeros(len(partner), dtype=torch.bool).index_fill(0, batch["rows"][m], True)
        for m in ("image", "audio")
    }
    others = partner != torch.arange(len(partner))
    assert others.any()
    for m in has:
        assert torch.equal(has[m], has[m][partner])
    assert torch.equal(batch["stream"], batch["stream"][partner])
    assert (batch["labels"][partner[others]] != IGNORE_INDEX).all()
    assert not others[batch["labels"] == IGNORE_INDEX].any()
    assert len(partner[others].unique()) == others.sum()


def test_a_sample_is_mixed_alike_in_any_micro_batch() -> None:
    batch = labelled()
    whole = mixed(batch, mixup=0.5)
    streams = batch["stream"] < 4
    found = mixed(_of_streams(batch, streams), mixup=0.5)
    rows = torch.isin(batch["rows"]["image"], streams.nonzero()[:, 0])
    torch.testing.assert_close(found["image"], whole["image"][rows], rtol=0, atol=0)
    assert torch.equal(found[MIXED_SHARE], whole[MIXED_SHARE][streams])


def _of_streams(batch: Batch, chosen: torch.Tensor) -> Batch:
    """`batch` with the chosen samples [B] bool only, for image alone."""
    new = chosen.cumsum(0) - 1
    rows = batch["rows"]["image"]
    kept = chosen[rows]
    names = ("group", "mask_seed", "sample_hash", "stream", "labels")
    return {
        **{name: batch[name][chosen] for name in names},
        "sample_id": [s for s, c in zip(batch["sample_id"], chosen.tolist(), strict=True) if c],
        "image": batch["image"][kept],
        "rows": {"image": new[rows[kept]]},
    }


def test_cutmix_pastes_a_box_and_counts_its_pixels() -> None:
    batch = labelled()
    before = batch["image"]
    found = mixed(batch, cutmix=1.0)
    row_of = {s: r for r, s in enumerate(batch["rows"]["image"].tolist())}
    boxes = 0
    for sample, row in row_of.items():
        other = row_of[int(found[MIXED_WITH][sample])]
        theirs = (found["image"][row] != before[row]).any(0)
        torch.testing.assert_close(found["image"][row][:, theirs], before[other][:, theirs])
        share = 1 - theirs.double().mean().item()
        assert found[MIXED_SHARE][sample].item() == pytest.approx(share, abs=1e-6)
        if theirs.any():
            boxes += 1
            down, across = theirs.any(1).nonzero(), theirs.any(0).nonzero()
            assert theirs[down.min() : down.max() + 1, across.min() : across.max() + 1].all()
    assert boxes > 5


def test_half_of_the_samples_are_for_either_and_share_leaves_some_out() -> None:
    batch = labelled()
    both = mixed(batch, mixup=0.5, cutmix=1.0)
    row_of = {s: r for r, s in enumerate(batch["rows"]["image"].tolist())}
    changed = [
        (both["image"][row] != batch["image"][row]).double().mean().item()
        for row in row_of.values()
    ]
    assert sum(c == 1 for c in changed) > 2  # mixup
    assert sum(0 < c < 1 for c in changed) > 2  # cutmix
    assert (mixed(batch, mixup=0.5, share=0.3)[MIXED_SHARE] < 1).sum() < 15
    assert MIXED_WITH not in mixed(batch, mixup=0.5, share=0.0)


def test_sound_is_heard_as_long_as_either() -> None:
    batch = labelled()
    batch["audio_mask"][0, 10:] = False
    found = mixed(batch, ("audio",), mixup=1.0)
    row_of = {s: r for r, s in enumerate(batch["rows"]["audio"].tolist())}
    first = int(batch["rows"]["audio"][0])
    partner = row_of[int(found[MIXED_WITH][first])]
    assert partner != 0
    want = batch["audio_mask"][0] | batch["audio_mask"][partner]
    assert torch.equal(found["audio_mask"][0], want)


def test_the_loss_is_that_of_both_labels(tokenizer: str) -> None:
    task = build(tokenizer, modalities=["image"], mix={"mixup": 0.5}).train()
    batch = task.prepare(labelled())
    rows, labels = batch["rows"]["image"], batch["labels"]
    own, other = labels[rows], labels[batch[MIXED_WITH]][rows]
    share = batch[MIXED_SHARE][rows]
    logits = task(batch, predict=True).predictions["logits"]
    of = [
        F.cross_entropy(logits, x, ignore_index=IGNORE_INDEX, reduction="none")
        for x in (own, other)
    ]
    want = (share * of[0] + (1 - share) * of[1]).sum()
    total, count = task(batch).losses["head/classification"]
    torch.testing.assert_close(total, want)
    assert count.item() == pytest.approx((own != IGNORE_INDEX).sum().item())
    assert task.counts(batch)["head/classification"].item() == pytest.approx(count.item())


def test_evaluation_mixes_nothing(tokenizer: str) -> None:
    task = build(tokenizer, modalities=["image"], mix={"mixup": 0.5}).eval()
    assert MIXED_WITH not in task.prepare(labelled())


@pytest.mark.parametrize(
    ("head", "text", "message"),
    [
        ({"modalities": ["text"], "mix": {"mixup": 1.0}}, {}, "the words of 'text' can't be mixed"),
        ({"modalities": ["audio"], "mix": {"cutmix": 1.0}}, {}, "cutmix is for pictures alone"),
        (
            {"modalities": ["image", "audio"], "mix": {"cutmix": 1.0}},
            {},
            "cutmix is for pictures alone",
        ),
        (
            {"modalities": ["image"], "mix": {"mixup": 1.0}},
            {"frozen": True, "cache": True},
            "encoder of 'image' is cached",
        ),
        ({"mix": {"mixup": -1.0}}, {}, "must be 0 or more"),
    ],
)
def test_refusals(tokenizer: str, head: Any, text: Any, message: str) -> None:
    settings = tiny.task_settings(tokenizer)
    del settings["objectives"]
    settings["model"]["encoders"]["image"] |= text
    settings["head"] = {"type": "classification", "label": "animal", **head}
    with pytest.raises(ConfigError, match=message):
        mmfm.build(settings, label_names=NAMES)
