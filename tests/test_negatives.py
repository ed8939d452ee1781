"""Hard negatives: who may be one, how they are drawn, and what is then fused."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from mmfm.masking import derive_seed, salt, uniform
from mmfm.negatives import draw_negatives, having, mismatched, negatives_exist, streams
from mmfm.task import PretrainTask
from mmfm.types import Read
from tests import tiny

READS = [
    Read("clean", ("image", "text"), fused=True, replaced=("text",)),
    Read("clean", ("image", "text"), fused=True, replaced=("image",)),
    Read("clean", ("audio", "image", "text"), fused=True, replaced=("text",)),
    Read("clean", ("audio", "image", "text"), fused=True, replaced=("audio", "image")),
]


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> PretrainTask:
    return tiny.make_task(tiny.make_tokenizer(tmp_path_factory.mktemp("negatives") / "tokenizer"))


def encoded(task, batch):
    read = Read("clean", ("image", "text", "audio"))
    return task.features(batch, [read])[read]


def unit(n: int, width: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pair = torch.randn(2, n, width, generator=generator, dtype=torch.float64)
    a, b = torch.nn.functional.normalize(pair, dim=-1)
    return a, b


# ------------------------------------------------------------------------------ the draw


def test_draws_follow_the_softmax_of_the_similarities() -> None:
    """1,500 streams of the same six samples under other seeds: a chi-square test a sample."""
    streams_, size, temperature = 1500, 6, 0.5
    query, key = unit(size)
    group = torch.tensor([0, 1, 2, 0, 3, 4])
    drawn = draw_negatives(
        query.repeat(streams_, 1),
        key.repeat(streams_, 1),
        group.repeat(streams_),
        torch.arange(streams_).repeat_interleave(size),
        derive_seed(torch.arange(streams_ * size), 5),
        temperature,
    ).view(streams_, size)
    assert (drawn // size == torch.arange(streams_)[:, None]).all()
    for i in range(size):
        others = [j for j in range(size) if group[j] != group[i]]
        want = (torch.stack([query[i] @ key[j] for j in others]) / temperature).softmax(0)
        seen = torch.bincount(drawn[:, i] % size, minlength=size)[others]
        assert seen.sum() == streams_
        assert chisquare(seen.numpy(), streams_ * want.numpy()).pvalue > 1e-3, i
        uniform_ = torch.full_like(want, streams_ / len(others))
        assert chisquare(seen.numpy(), uniform_.numpy()).pvalue < 1e-12, i


def test_samples_draw_independently() -> None:
    """Equal similarities: two samples agree on a third one as often as chance has it."""
    n, size = 1500, 4
    flat = torch.ones(n * size, 1)
    drawn = draw_negatives(
        flat, flat, torch.arange(n * size), torch.arange(n).repeat_interleave(size),
        derive_seed(torch.arange(n * size), 6), 1.0,
    ).view(n, size) % size  # fmt: skip
    both = (drawn[:, 0] == drawn[:, 1]).double().mean().item()
    assert both == pytest.approx(2 / 9, abs=5 * (2 / 9 * 7 / 9 / n) ** 0.5)


def test_a_draw_is_the_largest_sum_of_logit_and_noise() -> None:
    query, key = unit(12, seed=1)
    group = torch.tensor([0, 1, 2, 0, 3, 4, 5, 5, 5, 5, 6, 7])
    stream = torch.tensor([3, 3, 1, 3, 1, 3, 2, 2, 2, 2, 9, 1])
    seed = derive_seed(torch.arange(12), 1)
    found = draw_negatives(query, key, group, stream, seed, 0.1)
    for i in range(12):
        best, score = -1, -torch.inf
        for j in range(12):
            if stream[i] == stream[j] and group[i] != group[j]:
                noise = -(-uniform(seed[i : i + 1], seed[j : j + 1]).log()).log().item()
                if (query[i] @ key[j]).item() / 0.1 + noise > score:
                    best, score = j, (query[i] @ key[j]).item() / 0.1 + noise
        assert found[i].item() == best, i
    assert (found[6:11] == -1).all()  # all of one group, or alone
    assert torch.equal(negatives_exist(group, stream), found >= 0)


def test_a_low_temperature_takes_the_most_similar() -> None:
    query, key = unit(9, seed=2)
    everyone = torch.zeros(9, dtype=torch.int64)
    hardest = (query @ key.T).fill_diagonal_(-torch.inf).argmax(1)
    draw = (query, key, torch.arange(9), everyone, torch.arange(9))
    assert torch.equal(draw_negatives(*draw, 1e-4), hardest)
    assert not torch.equal(draw_negatives(*draw, 10.0), hardest)


def test_no_samples_have_no_negatives() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert draw_negatives(torch.zeros(0, 4), torch.zeros(0, 4), none, none, none, 1.0).shape == (0,)
    assert negatives_exist(none, none).shape == (0,)


def test_who_has_any_of_some_modalities() -> None:
    rows = {"image": torch.tensor([0, 2]), "text": torch.tensor([2, 3])}
    assert having(rows, ["image", "text"], 5).tolist() == [True, False, True, True, False]
    assert having(rows, ["audio"], 2).tolist() == [False, False]
    assert having({}, ["audio"], 1).tolist() == [False]


def test_a_batch_that_names_no_streams_is_one() -> None:
    batch = tiny.make_batch(0)
    assert streams(batch).tolist() == [s for s in range(tiny.STREAMS) for _ in range(tiny.SLOTS)]
    del batch["stream"]
    assert streams(batch).tolist() == [0] * tiny.GLOBAL_BATCH


# ------------------------------------------------------------------------------ what is fused


def partners(task, batch, read) -> dict[str, dict[str, set[str]]]:
    """sample id ▶ modality ▶ the ids of the samples with these tokens, among those that have the
    modality.
    """
    features = encoded(task, batch)
    parts = mismatched(features, batch, read)
    found: dict[str, dict[str, set[str]]] = {}
    for m in parts.rows:
        assert parts.rows[m].tolist() == sorted(set(parts.rows[m].tolist()))
        for row, sample in enumerate(parts.rows[m].tolist()):
            same = [
                batch["sample_id"][int(features.rows[m][k])]
                for k in range(len(features.rows[m]))
                if all(
                    torch.equal(getattr(parts, name)[m][row], getattr(features, name)[m][k])
                    for name in ("tokens", "valid", "pooled", "embedding")
                )
            ]
            found.setdefault(batch["sample_id"][sample], {})[m] = set(same)
    return found


@pytest.mark.parametrize("read", READS, ids=lambda read: f"{read.kept}-{read.replaced}")
def test_a_mismatch_is_of_the_stream_and_not_of_the_group(task, read) -> None:
    for step in range(6):
        batch = tiny.make_batch(step)
        place = {name: i for i, name in enumerate(batch["sample_id"])}
        has = {m: set(rows.tolist()) for m, rows in batch["rows"].items()}
        found = partners(task, batch, read)
        assert found
        for name, parts in found.items():
            i = place[name]
            for m in read.kept:
                assert parts.get(m, {name}) == {name}
                assert (m in parts) == (i in has[m])
            (other,) = set.union(*(ids for m, ids in parts.items() if m in read.replaced))
            j = place[other]
            assert batch["group"][i] != batch["group"][j]
            assert batch["stream"][i] == batch["stream"][j]
            for side in (read.kept, read.replaced):
                assert any(j in has[m] for m in side)
            assert {m for m in parts if m in read.replaced} == {
                m for m in read.replaced if j in has[m]
            }


@pytest.mark.parametrize("read", READS, ids=lambda read: f"{read.kept}-{read.replaced}")
def test_negatives_do_not_depend_on_ranks_and_micro_batches(task, read) -> None:
    batch = tiny.make_batch(0)
    whole = partners(task, batch, read)
    for world_size, size in ((1, 8), (1, 4), (2, 8), (2, 4), (4, 4)):
        split: dict[str, dict[str, set[str]]] = {}
        for rank in range(world_size):
            for part in tiny.micro_batches(batch, rank, world_size, size):
                split |= partners(task, part, read)
        assert split == whole


def test_each_side_is_replaced_by_draws_of_its_own(task) -> None:
    """Even where a pair is as similar one way as the other."""
    batch = tiny.make_batch(0)
    batch |= {"group": torch.arange(tiny.GLOBAL_BATCH), "stream": torch.zeros_like(batch["group"])}
    features = encoded(task, batch)
    for m in features.embedding:
        features.embedding[m] = torch.ones_like(features.embedding[m])
    sources = []
    for read in READS[:2]:
        (m,) = read.replaced
        parts = mismatched(features, batch, read)
        same = (parts.pooled[m][:, None] == features.pooled[m][None]).all(-1)
        assert (same.sum(1) == 1).all()
        sources.append(features.rows[m][same.int().argmax(1)])
    assert len(sources[0]) == len(sources[1]) == tiny.STREAMS * 3
    assert (sources[0] == sources[1]).sum() < 6


def test_the_seed_is_the_samples(task) -> None:
    batch = tiny.make_batch(0)
    seeds = derive_seed(batch["mask_seed"], 1)
    one, other = (partners(task, {**batch, "mask_seed": s}, READS[0]) for s in (seeds, seeds + 1))
    assert one != other
    assert set(one) == set(other)


def test_a_side_of_several_modalities_is_compared_by_the_mean_of_them(task) -> None:
    batch = tiny.make_batch(2)
    features = encoded(task, batch)
    read = READS[2]
    side = torch.zeros(tiny.GLOBAL_BATCH, 16, dtype=torch.float64)
    for m in ("audio", "image"):
        side[features.rows[m]] += features.embedding[m].detach().double()
    side = side / side.norm(dim=1, keepdim=True)
    text = torch.zeros(tiny.GLOBAL_BATCH, 16, dtype=torch.float64)
    text[features.rows["text"]] = features.embedding["text"].detach().double()
    seed = derive_seed(batch["mask_seed"], salt("instead of text"))
    want = draw_negatives(side, text, batch["group"], batch["stream"], seed, 0.07)
    names = batch["sample_id"]
    found = partners(task, batch, read)
    assert all(found[names[i]]["text"] == {names[j]} for i, j in enumerate(want.tolist()) if j >= 0)
    assert len(found) == int((want >= 0).sum()) > 10


def test_reads_of_hard_negatives_are_fused_and_clean() -> None:
    for wrong, message in (
        ({"fused": False, "replaced": ("text",)}, "only a fused read of the clean view"),
        ({"view": "masked", "replaced": ("text",)}, "only a fused read of the clean view"),
        ({"replaced": ("image", "text")}, "some of the modalities, and not all"),
        ({"replaced": ("audio",)}, "some of the modalities, and not all"),
    ):
        with pytest.raises(ValueError, match=message):
            Read(**{"view": "clean", "modalities": ("image", "text"), "fused": True, **wrong})
    assert READS[3].kept == ("text",)
    assert Read("clean", ("image",)).kept == ("image",)
