"""The finite check, norms by part, a full disk and the watchdog, on one rank and on two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmfm.train.health.nonfinite import NonFiniteError
from mmfm.train.trainer import Trainer
from tests import tiny
from tests.launch import deepspeed
from tests.train.health_worker import CASES, IN_BF16, batches, full_disk, norms, trainer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    return tiny.make_tokenizer(tmp_path_factory.mktemp("health") / "tokenizer")


@pytest.fixture(scope="module")
def launched(tokenizer, tmp_path_factory) -> tuple[Path, Any, Any]:
    """The folder, what the two ranks have found, and how the launch ended."""
    out = tmp_path_factory.mktemp("two")
    done = deepspeed(2, "tests.train.health_worker", tokenizer, str(out), check=False)
    assert (out / "found.json").exists(), done.stderr[-3000:]
    return out, json.loads((out / "found.json").read_text()), done


@pytest.fixture(scope="module")
def plain(tokenizer) -> list[dict[str, float]]:
    """Norms of the first step by plain PyTorch, by part."""
    task = tiny.make_task(tokenizer)
    batch = task.prepare(tiny.make_batch(0))
    task.total(task(batch).losses, task.counts(batch)).backward()
    parts: dict[str, float] = {}
    for name, parameter in task.named_parameters():
        words = name.split(".")
        part = ".".join(words[:3] if words[1] == "encoders" else words[:2])
        parts[part] = parts.get(part, 0.0) + float(parameter.grad.double().square().sum())
    return {part: square**0.5 for part, square in parts.items()}


# ------------------------------------------------------------------------------ norms by part


@pytest.fixture(scope="module")
def one_rank(group, tokenizer) -> dict[tuple[int, int], list[dict[str, float]]]:
    return {case: norms(tokenizer, *case) for case in CASES}


@pytest.mark.parametrize(("stage", "parts"), CASES)
def test_norms_by_part_equal_plain_pytorch(
    one_rank, plain, launched, stage: int, parts: int
) -> None:
    for found in (
        one_rank[stage, parts],
        *(rank[f"norms/{stage}/{parts}"] for rank in launched[1]),
    ):
        for part, norm in plain.items():
            assert found[0][part] == pytest.approx(norm, rel=1e-5), part
        whole = sum(norm**2 for norm in plain.values()) ** 0.5
        assert found[0]["all"] == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(("stage", "parts"), CASES)
@pytest.mark.parametrize("modality", ["image", "text", "audio"])
def test_activations_don_t_depend_on_ranks_micro_batches_and_stage(
    one_rank, launched, stage: int, parts: int, modality: str
) -> None:
    want = [step[modality] for step in one_rank[CASES[0]]]
    assert want[0] != want[1]
    for found in (one_rank[stage, parts], launched[1][0][f"norms/{stage}/{parts}"]):
        assert [step[modality] for step in found] == pytest.approx(want, rel=1e-5)


def test_activations_leave_padding_out(group, tokenizer: str) -> None:
    """What stands in the padding of a text makes no difference."""
    from mmfm.train.health.activations import ActivationNorms

    one, sizes = trainer(tokenizer, 0, 1), []
    for filler in (5, 250):
        batch = tiny.make_batch(0)
        batch["text"][~batch["text_mask"]] = filler
        with ActivationNorms(one.task.model) as found:
            one.task(one.task.prepare(batch))
        sizes.append(found.collect()["text"])
    one.engine.destroy()
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(("stage", "parts"), IN_BF16)
def test_norms_in_bf16(group, tokenizer: str, plain, one_rank, stage: int, parts: int) -> None:
    check_in_bf16(norms(tokenizer, stage, parts, "bf16"), plain, one_rank)


def test_norms_in_bf16_on_two_ranks(launched, plain, one_rank) -> None:
    for rank in launched[1]:
        check_in_bf16(rank["bf16"], plain, one_rank)


def check_in_bf16(found, plain, one_rank) -> None:
    """Each part's first gradient, and the whole one of both steps."""
    for part, norm in plain.items():
        assert found[0][part] == pytest.approx(norm, rel=0.1), part
    for step, whole in zip(found, one_rank[CASES[0]], strict=True):
        assert step["all"] == pytest.approx(whole["all"], rel=0.05)


# ------------------------------------------------------------------------------ finite check


def test_a_broken_sample_is_named_on_every_rank(launched) -> None:
    for found in launched[1]:
        for stage, parts in CASES:
            report = found[f"broken/{stage}"]
            assert report["message"].startswith("step 1: the loss is not finite (")
            where = f"(rank 1, micro-batch {parts - 1}, samples {tiny.GLOBAL_BATCH - 1})"
            assert (
                f"it begins with the inputs of audio {where}; nonfinite.json in the run's folder "
                "says more"
            ) in report["message"]
            assert [rank["rank"] for rank in report["ranks"]] == [0, 1]
            assert report["ranks"][0]["found"] == []
            gradients = [name for rank in report["ranks"] for name in rank["gradients"]]
            assert any(name.startswith("model.encoders.audio") for name in gradients)


def held(parameter) -> torch.Tensor:
    """What this rank holds of a parameter."""
    return getattr(parameter, "ds_tensor", parameter).detach()


def failing(one: Trainer, parts: int = 2) -> NonFiniteError:
    before = [held(parameter).clone() for parameter in one.task.parameters()]
    with pytest.raises(NonFiniteError) as caught:
        one.step(batches(0, parts))
    after = [held(parameter) for parameter in one.task.parameters()]
    assert all(map(torch.equal, before, after)), "a step was taken"
    one.engine.destroy()
    return caught.value


def test_a_module_that_breaks_is_named_with_its_samples(group, tokenizer: str) -> None:
    one = trainer(tokenizer, 2, 2)

    def spoil(module, args, output):
        output = output.clone()
        output[2] = torch.inf
        return output

    one.task.model.encoders["image"].transformer.blocks[0].mlp.register_forward_hook(spoil)
    message = str(failing(one))
    assert (
        "output of model.encoders.image.transformer.blocks.0.mlp (rank 0, micro-batch 0, samples 2)"
        in message
    )


def test_a_weight_that_is_broken_is_named(group, tokenizer: str) -> None:
    one = trainer(tokenizer, 1, 1)
    with torch.no_grad():
        dict(one.task.named_parameters())["model.fusion.transformer.norm.bias"][0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"the weights model\.fusion\.\S*norm.bias are not"):
        one.step(batches(0, 1))
    one.engine.destroy()


@pytest.mark.parametrize(("stage", "parts"), [(0, 2), (1, 1), (3, 2)])
def test_a_gradient_that_breaks_is_named_with_its_samples(
    group, tokenizer: str, stage: int, parts: int
) -> None:
    one = trainer(tokenizer, stage, parts)

    def spoil(module, args, output):
        tokens, pooled = output

        def backward(gradient):
            gradient = gradient.clone()
            gradient[1] = torch.nan
            return gradient

        if pooled.requires_grad:
            pooled.register_hook(backward)
        return tokens, pooled

    one.task.model.encoders["audio"].register_forward_hook(spoil)
    message = str(failing(one, parts))
    assert message.startswith("step 1: the gradient is not finite: it begins with the gradient at ")
    assert "the output of model.encoders.audio (rank 0, micro-batch 0, samples 1)" in message


# ------------------------------------------------------------------------------ disk, watchdog


def test_a_full_disk_stops_all_ranks_with_one_message(launched, tmp_path: Path) -> None:
    for found in launched[1]:
        assert "(rank 1: [Errno 28] No space left on device" in found["full_disk"]
        assert "older ones are untouched" in found["full_disk"]
    assert sorted(p.name for p in (launched[0] / "checkpoints").iterdir()) == [
        "latest",
        "step_00000001",
    ]
    assert "(rank 0: [Errno 28]" in full_disk(tmp_path)


def test_a_rank_that_sleeps_is_named_and_the_run_ends(launched) -> None:
    out, _, done = launched
    assert done.returncode == 3
    told = [line for line in done.stderr.splitlines() if "stands still" in line]
    assert len(told) == 1
    assert told[0].startswith("step 5 stands still for 1.5 s: rank 1 has not reached barrier")
    assert "rank 0 waits in barrier" in told[0]
    assert "ends with code 3" in done.stderr
    assert "sleep" not in (out / "stall-rank0.txt").read_text()
    assert "health_worker.py" in (out / "stall-rank1.txt").read_text()
