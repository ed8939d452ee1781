"""What ZeRO 3 keeps for its next use is what DeepSpeed's own search finds."""

from __future__ import annotations

import pytest

from mmfm.train.engine import reuse
from mmfm.train.optim import OptimConfig
from mmfm.train.trainer import TrainConfig, Trainer
from tests import tiny

SGD = OptimConfig(type="sgd", lr=0.01, weight_decay=0.0, grad_clip=0.0, schedule="constant")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    return tiny.make_tokenizer(tmp_path_factory.mktemp("reuse") / "tokenizer")


@pytest.mark.parametrize(("distance", "persistent"), [(0, 0), (3_000, 0), (20_000, 20), (10**9, 0)])
def test_it_is_what_deepspeed_finds(
    group, tokenizer: str, monkeypatch, distance: int, persistent: int
) -> None:
    kept = released = 0

    def both(coordinator, module, place: int) -> set[int]:
        nonlocal kept, released
        got = reuse.by_lookup(coordinator, module, place)
        if place % 20 == 0:  # the search takes its time
            assert got == reuse.by_search(coordinator, module, place), place
        released += len(got)
        kept += len(list(reuse.iter_params(module))) - len(got)
        return got

    monkeypatch.setattr(reuse.Coordinator, reuse.SEARCH, both)
    stage3 = {
        "stage3_max_reuse_distance": distance,
        "stage3_param_persistence_threshold": persistent,
    }
    trainer = Trainer(
        tiny.make_task(tokenizer),
        TrainConfig(zero_stage=3),
        SGD,
        global_batch_size=tiny.GLOBAL_BATCH,
        seed=0,
        deepspeed={"zero_optimization": stage3},
    )
    for step in range(3):
        trainer.step(tiny.micro_batches(tiny.make_batch(step), 0, 1, tiny.GLOBAL_BATCH))
    trainer.engine.destroy()
    assert released
    assert kept or (distance, persistent) == (0, 0)
