"""DeepSpeed's JSON: complete where it affects the mathematics, and read by it as we mean it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mmfm.train.engine.deepspeed_config import OWNED_KEYS, deepspeed_config


def made(**changes: Any) -> dict[str, Any]:
    given = {
        "global_batch_size": 64, "micro_batch_size": 8, "world_size": 2, "zero_stage": 2,
        "precision": "fp32", "grad_clip": 0.7, "overrides": {},
    }  # fmt: skip
    return deepspeed_config(**{**given, **changes})


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_key_that_affects_the_mathematics_is_written(stage: int) -> None:
    config = made(zero_stage=stage)
    assert config["train_batch_size"] == 64
    assert config["train_micro_batch_size_per_gpu"] == 8
    assert config["gradient_accumulation_steps"] == 4
    assert config["gradient_clipping"] == 0.7
    assert config["prescale_gradients"] is False
    assert config["gradient_predivide_factor"] == 1.0
    assert config["communication_data_type"] == "fp32"
    assert config["fp16"] == {"enabled": False}
    assert config["bf16"] == {"enabled": False}
    assert config["data_types"] == {"grad_accum_dtype": "fp32"}
    assert config["zero_optimization"]["stage"] == stage
    assert config["zero_allow_untested_optimizer"] is True


def test_no_clipping_is_said_too() -> None:
    assert made(grad_clip=0.0)["gradient_clipping"] == 0.0


def test_it_is_pure() -> None:
    overrides = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    before = copy.deepcopy(overrides)
    config = made(overrides=overrides)
    config["zero_optimization"]["offload_optimizer"]["device"] = "nvme"
    assert overrides == before
    assert made()["zero_optimization"] == made()["zero_optimization"]


def test_overrides_reach_single_keys() -> None:
    config = made(
        overrides={
            "zero_optimization": {"overlap_comm": True, "offload_optimizer": {"device": "cpu"}},
            "gradient_clipping": 9.0,
            "comms_logger": {"enabled": True},
        }
    )
    zero = config["zero_optimization"]
    assert (zero["stage"], zero["overlap_comm"], zero["reduce_scatter"]) == (2, True, True)
    assert zero["offload_optimizer"] == {"device": "cpu"}
    assert config["gradient_clipping"] == 9.0
    assert config["comms_logger"] == {"enabled": True}


@pytest.mark.parametrize("key", OWNED_KEYS)
def test_what_the_recipe_owns_can_not_be_overridden(key: str) -> None:
    with pytest.raises(ValueError, match=rf"deepspeed\.{key} follows from data\.global_batch_size"):
        made(overrides={key: 3})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"optimizer": {"type": "Adam"}}, r"deepspeed\.optimizer would be ignored: see optim"),
        ({"scheduler": {}}, r"deepspeed\.scheduler would be ignored"),
        ({"bf16": {"enabled": True}}, r"deepspeed\.bf16\.enabled follows from train\.precision"),
        ({"bf16": {"immediate_grad_update": False}}, r"= false would count the gradients"),
    ],
)
def test_what_mmfm_sets_otherwise(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(overrides=overrides)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_needs_zero(precision: str) -> None:
    config = made(precision=precision, zero_stage=1)
    assert [p for p in ("bf16", "fp16") if config[p]["enabled"]] == [precision]
    with pytest.raises(ValueError, match=rf"{precision} .* set train\.zero_stage to 1, 2 or 3"):
        made(precision=precision, zero_stage=0)


def test_deepspeed_accepts_it_and_reads_what_we_mean(monkeypatch) -> None:
    """Through DeepSpeed's own parser; an unknown or misspelt key would leave its default."""
    monkeypatch.setenv("WORLD_SIZE", "1")
    from mmfm.train import engine  # noqa: F401  (imports deepspeed the right way)

    from deepspeed.runtime.config import DeepSpeedConfig  # isort: skip

    for stage in (0, 1, 2, 3):
        config = made(zero_stage=stage, world_size=1)
        read = DeepSpeedConfig(copy.deepcopy(config))
        assert read.train_batch_size == 64
        assert read.train_micro_batch_size_per_gpu == 8
        assert read.gradient_accumulation_steps == 8
        assert read.gradient_clipping == 0.7
        assert read.prescale_gradients is False
        assert read.gradient_predivide_factor == 1.0
        assert str(read.communication_data_type) in ("torch.float32", "fp32")
        assert read.zero_config.stage == stage
        assert read.zero_config.overlap_comm is False
        assert read.zero_allow_untested_optimizer is True
        assert read.grad_accum_dtype == "fp32"
