"""The trainer on one rank: arithmetic, what a step reports, the learning rate, clipping, dropout.

That it equals plain PyTorch on any number of ranks is in test_exactness.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmfm import distributed
from mmfm.train.log.measure import Clock, batch_hash
from mmfm.train.optim import OptimConfig
from mmfm.train.trainer import StepResult, TrainConfig, Trainer
from tests import tiny

SGD = OptimConfig(type="sgd", lr=0.5, weight_decay=0.0, grad_clip=0.0, schedule="constant")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    return tiny.make_tokenizer(tmp_path_factory.mktemp("trainer") / "tokenizer")


def trainer(
    tokenizer: str,
    optim: OptimConfig = SGD,
    dropout: float = 0.0,
    seed: int = 0,
    parts: int = 1,
    **train: Any,
) -> Trainer:
    if parts > 1:
        train["micro_batch_size"] = tiny.GLOBAL_BATCH // parts
    return Trainer(
        tiny.make_task(tokenizer, dropout),
        TrainConfig(**{"zero_stage": 0, **train}),
        optim,
        global_batch_size=tiny.GLOBAL_BATCH,
        seed=seed,
        deepspeed=tiny.IN_PARTS,
    )


def batches(step: int = 0, parts: int = 1):
    return tiny.micro_batches(tiny.make_batch(step), 0, 1, tiny.GLOBAL_BATCH // parts)


def weights(one: Trainer) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in one.task.named_parameters()}


# ------------------------------------------------------------------------------ arithmetic


@pytest.mark.parametrize(
    ("grad_cache", "compares", "parts", "want"),
    [
        ("auto", True, 1, False),
        ("auto", True, 2, True),
        ("auto", False, 4, False),
        (True, True, 1, True),
        (True, False, 4, False),
        (False, True, 1, False),
        (False, False, 4, False),
    ],
)
def test_when_grad_cache_is_on(grad_cache, compares: bool, parts: int, want: bool) -> None:
    assert TrainConfig(grad_cache=grad_cache).uses_grad_cache(compares, parts) is want


def test_accumulation_that_cuts_the_negatives_is_refused_unless_asked_for() -> None:
    with pytest.raises(ValueError, match=r"grad_cache = false .* only the negatives of its own"):
        TrainConfig(grad_cache=False).uses_grad_cache(True, 2)
    asked = TrainConfig(grad_cache=False, micro_batch_negatives=True)
    assert asked.uses_grad_cache(True, 2) is False


@pytest.mark.parametrize(("ranks", "micro"), [(1, 5), (3, None), (2, 3), (4, 16), (1, 64)])
def test_sizes_that_do_not_divide_are_an_error_with_the_arithmetic(
    tokenizer, monkeypatch, ranks: int, micro: int | None
) -> None:
    monkeypatch.setattr(distributed, "launched_world_size", lambda: ranks)
    size = tiny.GLOBAL_BATCH
    message = rf"global_batch_size = {size} on {ranks} ranks is .* samples a rank, not a multiple"
    with pytest.raises(ValueError, match=message):
        trainer(tokenizer, micro_batch_size=micro)


def test_everything_frozen_is_an_error(tokenizer, group) -> None:
    task = tiny.make_task(tokenizer).requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter is frozen"):
        Trainer(task, TrainConfig(), SGD, global_batch_size=16, seed=0)


# ------------------------------------------------------------------------------ one step


@pytest.mark.parametrize("stage", [0, 1])
def test_what_a_step_reports(tokenizer, group, stage: int) -> None:
    task = tiny.make_task(tokenizer)
    batch = task.prepare(tiny.make_batch(0))
    losses, counts = task(batch).losses, task.counts(batch)
    total = task.total(losses, counts)
    total.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in task.parameters()])

    one = trainer(tokenizer, zero_stage=stage)
    result = one.step(batches())
    assert isinstance(result, StepResult)
    assert result.loss == pytest.approx(total.item(), rel=1e-6)
    assert set(result.losses) == set(losses)
    for name, (summed, count) in losses.items():
        assert result.losses[name] == pytest.approx((summed / count).item(), rel=1e-6)
    assert result.scalars == {"contrastive/logit_scale": pytest.approx(2.0)}  # 1 / 0.5, before it
    assert result.grad_norm == pytest.approx(norm.item(), rel=1e-5)
    assert result.lr == 0.5
    assert one.step_index == 1
    for name, parameter in one.task.named_parameters():
        want = task.get_parameter(name) - 0.5 * task.get_parameter(name).grad
        torch.testing.assert_close(parameter, want, rtol=1e-5, atol=1e-6)
    assert one.step(batches(1)).scalars != result.scalars


def test_the_learning_rate_follows_the_schedule(tokenizer, group) -> None:
    optim = OptimConfig(lr=0.01, warmup_steps=2, final_lr_factor=0.1)
    one = trainer(tokenizer, optim, max_steps=5)
    got = [one.step(batches(step)).lr for step in range(5)]
    assert got == pytest.approx([0.005, 0.01, 0.01, 0.0055, 0.001])
    assert [g["lr"] for g in one.engine.optimizer.param_groups] == pytest.approx([0.001] * 2)


def test_learning_rates_of_parts_follow_the_schedule_too(tokenizer, group) -> None:
    optim = OptimConfig(lr=0.01, schedule="wsd", decay_steps=4, lr_factors={"objectives": 2.0})
    one = trainer(tokenizer, optim, max_steps=6)
    for step, factor in enumerate((1, 1, 0.5)):
        assert one.step(batches(step)).lr == pytest.approx(0.01 * factor)
        rates = sorted({group["lr"] for group in one.engine.optimizer.param_groups})
        assert rates == pytest.approx([0.01 * factor, 0.02 * factor])


def test_objective_weights_follow_the_step(tokenizer, group) -> None:
    one = trainer(tokenizer, parts=2)
    one.task.weight_at = {"contrastive": [0.0, 3.0].__getitem__}
    for step, weight in enumerate((0.0, 3.0)):
        result = one.step(batches(step, parts=2))
        assert result.weights == {"contrastive": weight}
        weights = {**dict.fromkeys(one.task.weights, 1.0), "masked_audio": 0.5}
        want = sum(
            {**weights, "contrastive": weight}[name.split("/")[0]] * loss
            for name, loss in result.losses.items()
        )
        assert result.loss == pytest.approx(want)


@pytest.mark.parametrize("stage", [0, 1])
def test_learning_rate_zero_changes_nothing(tokenizer, group, stage: int) -> None:
    one = trainer(tokenizer, OptimConfig(lr=0.1), zero_stage=stage)
    before = weights(one)
    assert one.step(batches(), lr=0.0).lr == 0.0
    for name, weight in weights(one).items():
        assert torch.equal(weight, before[name]), name
    one.step(batches())
    assert not torch.equal(weights(one)["model.projections.image.maps.linear.weight"],
                           before["model.projections.image.maps.linear.weight"])  # fmt: skip


@pytest.mark.parametrize("stage", [0, 1])
def test_clipping_limits_the_step_and_not_the_report(tokenizer, group, stage: int) -> None:
    optim = OptimConfig(type="sgd", lr=1.0, weight_decay=0.0, grad_clip=0.01, schedule="constant")
    one = trainer(tokenizer, optim, zero_stage=stage)
    before = weights(one)
    result = one.step(batches())
    moved = torch.stack([(w - before[n]).norm() for n, w in weights(one).items()]).norm()
    assert result.grad_norm > 0.1
    assert moved.item() == pytest.approx(0.01, rel=1e-3)


def test_all_micro_batches_of_a_step_come_together(tokenizer, group) -> None:
    with pytest.raises(AssertionError, match="accumulation is fixed"):
        trainer(tokenizer, parts=2).step(batches())


def test_micro_batch_negatives_compare_within_each_part(tokenizer, group) -> None:
    asked = {"grad_cache": False, "micro_batch_negatives": True}
    one = trainer(tokenizer, parts=2, **asked)
    assert not one.grad_cache
    result = one.step(batches(parts=2))
    task = tiny.make_task(tokenizer)
    parts = [task(task.prepare(b)).losses["contrastive/image_text"] for b in batches(parts=2)]
    want = sum(t.item() for t, _ in parts) / sum(c.item() for _, c in parts)
    assert result.losses["contrastive/image_text"] == pytest.approx(want, rel=1e-6)
    whole = trainer(tokenizer, parts=2).step(batches(parts=2))
    assert whole.losses["contrastive/image_text"] > result.losses["contrastive/image_text"] + 0.1
    # Losses without negatives don't care.
    for name, loss in result.losses.items():
        if name.startswith("masked"):
            assert loss == pytest.approx(whole.losses[name], rel=1e-6)


# ------------------------------------------------------------------------------ randomness


def test_dropout_follows_the_seed_and_the_step(tokenizer, group) -> None:
    first, again, other = (trainer(tokenizer, dropout=0.3, seed=s) for s in (1, 1, 2))
    one = first.step(batches(), lr=0.0)
    torch.manual_seed(12345)  # nothing else has a say
    assert again.step(batches(), lr=0.0) == one
    assert other.step(batches(), lr=0.0).loss != one.loss
    assert first.step(batches(), lr=0.0).loss != one.loss  # the same samples in another step
    again.step_index = 0
    assert again.step(batches(), lr=0.0) == one  # as after a resume


def test_grad_cache_over_four_parts_is_the_same_training(tokenizer, group) -> None:
    """The temperature's gradient included, which must count once and not four times."""
    whole, split = trainer(tokenizer), trainer(tokenizer, parts=4)
    start = weights(whole)
    for step in range(2):
        one, other = whole.step(batches(step)), split.step(batches(step, parts=4))
        assert other.losses == pytest.approx(one.losses, rel=1e-5)
        assert other.scalars == pytest.approx(one.scalars, rel=1e-5)
    want, got = weights(whole), weights(split)
    for name, weight in want.items():
        moved = (weight - start[name]).norm()
        assert (got[name] - weight).norm() <= 1e-4 * moved + 1e-6, name


def test_grad_cache_with_dropout_is_the_same_training(tokenizer, group) -> None:
    """One micro-batch with and without: the passes of grad_cache must drop the same units."""
    plain, cached = (trainer(tokenizer, dropout=0.3, grad_cache=g) for g in (False, True))
    assert (plain.grad_cache, cached.grad_cache) == (False, True)
    for step in range(2):
        one, other = plain.step(batches(step)), cached.step(batches(step))
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)
    before = weights(plain)
    for name, weight in weights(cached).items():
        assert (weight - before[name]).norm() <= 1e-4 * before[name].norm() + 1e-6, name


# ------------------------------------------------------------------------------ beside the trainer


def test_batch_hash_is_that_of_the_set_of_samples() -> None:
    whole, parts = batch_hash(batches()), batch_hash(batches(parts=4))
    assert whole == batch_hash([{"sample_id": batches()[0]["sample_id"][::-1]}])
    assert whole == parts != batch_hash(batches(1))


def test_clock(monkeypatch) -> None:
    now = iter([0.0, 1.0, 4.0, 10.0, 11.0, 12.0])
    monkeypatch.setattr("mmfm.train.log.measure.time.perf_counter", lambda: next(now))
    clock = Clock(30)
    for _ in range(2):
        clock.start()
        clock.data_is_there()
        clock.step_is_done(tokens=60)
    assert clock.seconds_a_step == 3.0  # (4 + 2) / 2
    assert clock.samples_per_s == 10.0
    assert clock.tokens_per_s == 20.0
    assert clock.data_wait == pytest.approx(2 / 6)
