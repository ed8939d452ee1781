"""The finite check, norms by part, a full disk and the watchdog, on one rank and on two."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from mmfm.train.engine import end_process_group, start_process_group
from mmfm.train.nonfinite import NonFiniteError
from mmfm.train.trainer import Trainer
from tests import tiny
from tests.launch import deepspeed
from tests.train.health_worker import CASES, batches, broken, full_disk, norms, trainer


@pytest.fixture(scope="module")
def group():
    before = dict(os.environ)
    start_process_group()
    yield
    end_process_group()
    os.environ.clear()
    os.environ.update(before)


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


@pytest.mark.parametrize(("stage", "parts"), CASES)
def test_norms_by_part_equal_plain_pytorch(
    group, tokenizer: str, plain, stage: int, parts: int
) -> None:
    check_norms(norms(tokenizer, stage, parts), plain)


@pytest.mark.parametrize(("stage", "parts"), CASES)
def test_norms_by_part_are_the_same_on_two_ranks(
    group, tokenizer: str, plain, launched, stage: int, parts: int
) -> None:
    for found in launched[1]:
        check_norms(found[f"norms/{stage}/{parts}"], plain)


def check_norms(steps: list[dict[str, float]], plain: dict[str, float]) -> None:
    first = steps[0]
    for part, norm in plain.items():
        assert first[part] == pytest.approx(norm, rel=1e-5), part
    assert first["all"] == pytest.approx(sum(v * v for v in plain.values()) ** 0.5, rel=1e-5)
    # Each row of every encoder ends in a layer norm with weights near 1.
    for modality in ("image", "text", "audio"):
        assert steps[0][modality] != steps[1][modality]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_activations_don_t_depend_on_ranks_micro_batches_and_stage(
    group, tokenizer: str, launched, stage: int
) -> None:
    want = norms(tokenizer, 0, 1)
    for parts in (1, 2):
        for found in (norms(tokenizer, stage, parts), launched[1][0][f"norms/{stage}/{parts}"]):
            for step in range(2):
                for modality in ("image", "text", "audio"):
                    got = found[step][modality]
                    assert got == pytest.approx(want[step][modality], rel=1e-5)


def test_activations_leave_padding_out(group, tokenizer: str) -> None:
    """What stands in the padding of a text makes no difference."""
    from mmfm.train.activations import ActivationNorms

    one, sizes = trainer(tokenizer, 0, 1), []
    for filler in (5, 250):
        batch = tiny.make_batch(0)
        batch["text"][~batch["text_mask"]] = filler
        with ActivationNorms(one.task.model) as found:
            one.task(one.task.prepare(batch))
        sizes.append(found.collect()["text"])
    one.engine.destroy()
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_norms_in_bf16(group, tokenizer: str, plain, stage: int) -> None:
    one = trainer(tokenizer, stage, 1, "bf16")
    found = one.step(batches(0, 1)).grad_norms
    one.engine.destroy()
    for part, norm in plain.items():
        assert found[part] == pytest.approx(norm, rel=0.1), part


# ------------------------------------------------------------------------------ finite check


def test_a_broken_sample_is_named_on_every_rank(launched) -> None:
    for found in launched[1]:
        for stage in (0, 1, 2, 3):
            report = found[f"broken/{stage}"]
            assert report["message"].startswith("step 1: the loss is not finite (")
            assert (
                "it begins with the inputs of audio (rank 1, micro-batch 1, samples 15); "
                "nonfinite.json in the run's folder says more"
            ) in report["message"]
            assert [rank["rank"] for rank in report["ranks"]] == [0, 1]
            assert report["ranks"][0]["found"] == []


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_broken_sample_is_named(group, tokenizer: str, stage: int) -> None:
    report = broken(tokenizer, stage, 2)
    assert "inputs of audio (rank 0, micro-batch 1, samples 15)" in report["message"]
    json.dumps(report, allow_nan=False)
    gradients = report["ranks"][0]["gradients"]
    assert any(name.startswith("model.encoders.audio") for name in gradients)


def failing(one: Trainer, parts: int = 2) -> NonFiniteError:
    before = {n: p.detach().clone() for n, p in one.task.named_parameters()}
    with pytest.raises(NonFiniteError) as caught:
        one.step(batches(0, parts))
    for name, parameter in one.task.named_parameters():
        assert torch.equal(
            before[name],
            parameter,
        ), name  # not one step was taken
    one.engine.destroy()
    return caught.value


@pytest.mark.parametrize("stage", [0, 2])
def test_a_module_that_breaks_is_named_with_its_samples(group, tokenizer: str, stage: int) -> None:
    one = trainer(tokenizer, stage, 2)

    def spoil(module, args, output):
        if len(output) == 8:  # the clean view, which has all images of a micro-batch
            output = output.clone()
            output[2] = torch.inf
        return output

    one.task.model.encoders["image"].transformer.blocks[0].mlp.register_forward_hook(spoil)
    message = str(failing(one))
    assert "output of model.encoders.image.transformer.blocks.0.mlp (rank 0, micro-batch" in message


def test_a_weight_that_is_broken_is_named(group, tokenizer: str) -> None:
    one = trainer(tokenizer, 1, 1)
    with torch.no_grad():
        dict(one.task.named_parameters())["model.fusion.transformer.norm.bias"][0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"the weights model\.fusion\.\S*norm.bias are not"):
        one.step(batches(0, 1))
    one.engine.destroy()


@pytest.mark.parametrize("stage", [0, 1, 3])
@pytest.mark.parametrize("parts", [1, 2])
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
