"""fp16 on a CPU that is made to say that it has it: the scale of the loss, steps left out, going
on.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from deepspeed.accelerator import get_accelerator

from mmfm import checkpoint
from mmfm.checkpoint import Checkpoint
from mmfm.train.engine import state
from mmfm.train.optim import OptimConfig
from mmfm.train.optim.average import EmaConfig
from mmfm.train.resume import restored
from mmfm.train.trainer import TrainConfig, Trainer
from mmfm.types import Batch
from mmfm.weights import load_task
from tests import tiny

EMA = EmaConfig(decay=0.9)
ADAMW = OptimConfig(lr=1e-3, weight_decay=0.01, schedule="constant", ema=EMA)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    return tiny.make_tokenizer(tmp_path_factory.mktemp("fp16") / "tokenizer")


@pytest.fixture
def has_fp16(monkeypatch) -> None:
    monkeypatch.setattr(type(get_accelerator()), "is_fp16_supported", lambda self: True)


def trainer(
    tokenizer: str,
    stage: int,
    precision: str = "fp16",
    power: int = 10,
    found: Checkpoint | None = None,
) -> Trainer:
    task = tiny.make_task(tokenizer)
    if found is not None:
        load_task(task, found)
    fp16 = precision == "fp16"
    return Trainer(
        task,
        TrainConfig(zero_stage=stage, precision=precision, micro_batch_size=tiny.GLOBAL_BATCH // 2),
        ADAMW,
        global_batch_size=tiny.GLOBAL_BATCH,
        seed=0,
        deepspeed=tiny.IN_PARTS | ({"fp16": {"initial_scale_power": power}} if fp16 else {}),
    )


def batches(step: int = 0) -> list[Batch]:
    return tiny.micro_batches(tiny.make_batch(step), 0, 1, tiny.GLOBAL_BATCH // 2)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_it_follows_fp32(stage: int, tokenizer, group, has_fp16) -> None:
    half, full = trainer(tokenizer, stage), trainer(tokenizer, stage, "fp32")
    assert next(half.task.parameters()).dtype == torch.float16
    for step in range(3):
        one, other = (t.step(batches(step)) for t in (half, full))
        assert one.losses == pytest.approx(other.losses, rel=5e-3)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=2e-2)
        assert (one.skipped, one.loss_scale, other.loss_scale) == (False, 1024.0, None)


def test_a_step_that_overflows_is_left_out(tokenizer, group, has_fp16) -> None:
    one = trainer(tokenizer, 1, power=30)
    before = {n: p.detach().clone() for n, p in one.task.named_parameters()}
    first, second = (one.step(batches(step)) for step in range(2))
    assert first.skipped
    assert second.skipped
    assert (first.loss_scale, second.loss_scale) == (2.0**30, 2.0**29)  # the first is forgiven
    assert all(torch.equal(weight, before[name]) for name, weight in one.task.named_parameters())
    assert one.step_index == 2


@pytest.mark.parametrize("stage", [1, 3])
def test_a_step_that_is_left_out_moves_no_average(stage: int, tokenizer, group, has_fp16) -> None:
    one = trainer(tokenizer, stage)
    one.step(batches(0))
    before = dict(state.ema_part(one.engine))
    one.engine.optimizer.loss_scaler.cur_scale = 2.0**30
    assert one.step(batches(1)).skipped
    after = dict(state.ema_part(one.engine))
    assert set(after) == {n for n, p in one.task.named_parameters() if p.requires_grad}
    assert all(torch.equal(average, before[name]) for name, average in after.items())
    one.engine.optimizer.loss_scaler.cur_scale = 2.0**10
    assert not one.step(batches(2)).skipped
    moved = dict(state.ema_part(one.engine))
    assert not torch.equal(moved["model.fusion.cls"], after["model.fusion.cls"])


def test_the_smallest_scale_is_an_error(tokenizer, group, has_fp16) -> None:
    one = trainer(tokenizer, 1)
    scaler = one.engine.optimizer.loss_scaler
    scaler.min_scale = scaler.cur_scale = 2.0**30
    with pytest.raises(ValueError, match=r"smallest scale .* train\.precision=bf16"):
        one.step(batches())


@pytest.mark.parametrize(("stage", "power"), [(1, 17), (2, 17), (3, 17), (1, 30)])
def test_it_goes_on_bit_by_bit(
    stage: int, power: int, tokenizer, group, has_fp16, tmp_path: Path
) -> None:
    """Also the scale, which an overflow before has lowered and which one step with learning rate 0
    must not change. From 2**30 every step so far was left out.
    """
    whole = trainer(tokenizer, stage, power=power)
    results = [whole.step(batches(step)) for step in range(4)]
    kinds = {
        "model": state.weights_part(whole.engine),
        "optimizer": state.optimizer_part(whole.engine),
        "ema": state.ema_part(whole.engine),
    }
    extra = {
        "optimizer_scalars": state.optimizer_scalars(whole.engine),
        "loss_scaler": state.loss_scaler_state(whole.engine),
    }
    found = Checkpoint.open(checkpoint.write(tmp_path, 4, 64, kinds, lambda folder: None, extra))
    results += [whole.step(batches(step)) for step in range(4, 7)]
    again = trainer(tokenizer, stage, found=found)
    steps = restored(again, found, (batches(step) for step in range(4, 7)))
    again.step_index = 4
    assert [again.step(next(steps)) for _ in range(3)] == results[4:]
    assert any(result.skipped for result in results)
    averages = [dict(state.ema_part(one.engine)) for one in (whole, again)]
    assert averages[0].keys() == averages[1].keys()
    assert all(torch.equal(average, averages[1][name]) for name, average in averages[0].items())


def test_a_device_without_it_is_an_error(tokenizer, group, monkeypatch) -> None:
    monkeypatch.setattr(type(get_accelerator()), "is_fp16_supported", lambda self: False)
    with pytest.raises(ValueError, match="this device has no fp16"):
        trainer(tokenizer, 1)
