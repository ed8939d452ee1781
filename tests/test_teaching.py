"""Learning from a fine-tuned teacher: its answers and tokens, against losses written down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

import mmfm
from mmfm import checkpoint
from mmfm.config import ConfigError, from_dict
from mmfm.objectives._distillation.feature import feature_error
from mmfm.predictor import build
from mmfm.task import FinetuneTask, FinetuneTaskConfig, without
from mmfm.teaching import answer_error
from mmfm.types import Batch
from tests import tiny
from tests.heads.test_token_classification import NAMES as TAGS
from tests.heads.test_token_classification import batch_of
from tests.objectives import teachers

NAMES = ["circle", "square", "star"]
HEAD = {"type": "classification", "label": "shape", "modalities": ["image", "text"]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    return tiny.make_tokenizer(tmp_path_factory.mktemp("teaching") / "tokenizer")


def recipe(tokenizer: str, width: int = 16, head: dict[str, Any] = HEAD, **more) -> dict[str, Any]:
    return {"model": teachers.settings(tokenizer, width)["model"], "head": head, **more}


def write(folder: Path, raw: dict[str, Any], names: list[str] = NAMES, kind: str = "class") -> str:
    """The checkpoint of a fine-tuned model with random weights."""
    torch.manual_seed(1)
    task = build(raw, names)
    for parameter in task.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)

    def files(hidden: Path) -> None:
        (hidden / "config.yaml").write_text(yaml.safe_dump(raw))
        label = [raw["head"]["label"], names, kind] if "label" in raw["head"] else None
        told = {"specs": task.specs, "transforms": {}, "label": label}
        (hidden / "preprocessing.json").write_text(json.dumps(told))
        task.model.save_assets(hidden / "assets")

    return str(checkpoint.write(folder, 1, 32, {"model": task.state_dict().items()}, files, {}))


@pytest.fixture(scope="module")
def teacher(tokenizer: str, tmp_path_factory) -> str:
    """Wider than the student, with its labels in another order."""
    folder = tmp_path_factory.mktemp("teaching") / "teacher"
    return write(folder, recipe(tokenizer, width=24), ["star", "circle", "square"])


def student(tokenizer: str, teacher: dict[str, Any], width: int = 16, **more) -> FinetuneTask:
    torch.manual_seed(0)
    raw = recipe(tokenizer, width, teacher=teacher, **more)
    task = FinetuneTask.build(from_dict(FinetuneTaskConfig, raw), NAMES)
    torch.nn.init.normal_(task.head.classifier.weight)
    return task


def make_batch(leave_out: str | None = None) -> Batch:
    labels = torch.arange(tiny.GLOBAL_BATCH) % len(NAMES)
    labels[::3] = -100  # these teach all the same
    return {**tiny.make_batch(0, leave_out), "labels": labels}


def divergence(ours: Tensor, theirs: Tensor, temperature: float) -> Tensor:
    """Row by row: sum of p · (log p - log q), p the teacher's."""
    total = torch.zeros((), dtype=torch.float64)
    for q, p in zip(ours.double(), theirs.double(), strict=True):
        p, q = ((x / temperature).exp() / (x / temperature).exp().sum() for x in (p, q))
        total = total + (p * (p / q).log()).sum()
    return total * temperature**2


@pytest.mark.parametrize("leave_out", [None, "image"])
def test_losses_and_gradients_equal_those_written_down(
    tokenizer: str, teacher: str, leave_out: str | None
) -> None:
    settings = {"path": teacher, "weight": 0.5, "temperature": 3.0, "hidden": 0.7}
    task = student(tokenizer, settings).double()
    batch = task.prepare(make_batch(leave_out))
    losses, counts = task(batch).losses, task.counts(batch)
    assert set(losses) == set(counts)
    assert all(count == counts[name] for name, (_, count) in losses.items())
    total = task.total(losses, counts)
    total.backward()
    found = {n: p.grad.clone() for n, p in task.named_parameters() if p.grad is not None}

    theirs = mmfm.load(teacher, device="cpu").task.double()
    task.zero_grad()
    ours = task(batch, predict=True).predictions
    with torch.no_grad():
        want = theirs(batch, predict=True).predictions
    logits = want["logits"][:, [1, 2, 0]]
    kl = divergence(ours["logits"], logits, 3.0)
    rows = len(logits)
    assert counts["teacher/answers"] == rows
    labels = batch["labels"][ours["rows"]]
    cross = torch.nn.functional.cross_entropy(ours["logits"], labels)
    hidden = torch.zeros(())
    for modality in ("image", "text"):
        if modality == leave_out:
            assert counts[f"teacher_{modality}/{modality}"] == 0
            continue
        mine = task.model.encode(batch, [modality])
        with torch.no_grad():
            other = theirs.model.encode(batch, [modality])
        valid = mine.valid[modality]
        projected = task.objectives[f"teacher_{modality}"].project(mine.tokens[modality][valid])
        hidden = hidden + feature_error(projected, other.tokens[modality][valid]).mean()
    reference = cross + 0.5 * kl / rows + 0.7 * hidden
    # The loss of a head is in fp32.
    torch.testing.assert_close(total.double(), reference, rtol=1e-6, atol=0)
    reference.backward()
    for name, parameter in task.named_parameters():
        assert (parameter.grad is None) == (name not in found), name
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)
    assert found["objectives.head.head.classifier.weight"].abs().max() > 1e-3


def test_tokens_with_a_tag_learn_from_those_of_a_teacher(tokenizer: str, tmp_path: Path) -> None:
    head = {"type": "token_classification", "label": "tags", "overlap": 1}
    path = write(tmp_path, recipe(tokenizer, 24, head), TAGS, "tags")
    torch.manual_seed(0)
    raw = recipe(tokenizer, head=head, teacher={"path": path, "weight": 1.0, "temperature": 1.0})
    task = FinetuneTask.build(from_dict(FinetuneTaskConfig, raw), TAGS).eval()
    torch.nn.init.normal_(task.head.classifier.weight)
    batch = batch_of(task)
    losses, counts = task(batch).losses, task.counts(batch)
    theirs = mmfm.load(path, device="cpu").task
    pair = [t(batch, predict=True).predictions["logits"] for t in (task, theirs)]
    assert pair[0].shape == pair[1].shape
    begins = (batch["text_words"] >= 0).sum()
    assert losses["teacher/answers"][1] == counts["teacher/answers"] == begins == len(pair[0])
    want = divergence(*pair, 1.0)
    torch.testing.assert_close(losses["teacher/answers"][0].double(), want, rtol=1e-5, atol=0)
    batch = without(batch, ["text"])  # a micro-batch of other samples
    assert task.counts(batch)["teacher/answers"] == 0
    assert task(batch).losses["teacher/answers"][1] == 0


def test_numbers_and_sets_of_labels() -> None:
    ours, theirs = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    found = answer_error(ours, theirs, "number", 2.0)
    torch.testing.assert_close(found, (ours - theirs).square().mean(1).float())
    found = answer_error(ours, theirs, "set", 2.0)
    p, q = ((x / 2).sigmoid() for x in (theirs, ours))
    want = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(found, 4 * want.mean(1).float())


REGRESSION = {"type": "regression", "label": "size", "modalities": ["image", "text"]}


def test_numbers_are_compared_in_the_units_of_the_student(tokenizer: str, tmp_path: Path) -> None:
    """The teacher learnt numbers of another mean and deviation."""
    head = {**REGRESSION, "mean": 5.0, "deviation": 3.0}
    path = write(tmp_path, recipe(tokenizer, 24, head), [], "number")
    raw = recipe(tokenizer, head={**REGRESSION, "mean": 1.0, "deviation": 2.0})
    torch.manual_seed(0)
    config = from_dict(FinetuneTaskConfig, {**raw, "teacher": {"path": path}})
    task = FinetuneTask.build(config, []).eval()
    labels = torch.full((tiny.GLOBAL_BATCH,), torch.nan)
    batch = task.prepare({**make_batch(), "labels": labels})
    total, count = task(batch).losses["teacher/answers"]
    theirs = mmfm.load(path, device="cpu").task
    values = [t.head.predict(t(batch, predict=True).predictions)["value"] for t in (task, theirs)]
    assert count == len(values[0]) == task.counts(batch)["teacher/answers"]
    want = ((values[0] - values[1]) / 2).square().sum()
    torch.testing.assert_close(total, want, rtol=1e-5, atol=1e-6)


def test_levels_and_sets_are_yes_or_no_each(tokenizer: str, tmp_path: Path) -> None:
    levels = {**REGRESSION, "label": "shape", "order": NAMES, "loss": "ordinal"}
    several = {**HEAD, "multi_label": True}
    for place, (head, kind) in enumerate(((levels, "class"), (several, "set"))):
        path = write(tmp_path / str(place), recipe(tokenizer, 24, head), NAMES, kind)
        torch.manual_seed(0)
        raw = recipe(tokenizer, head=head, teacher={"path": path, "temperature": 1.0})
        task = FinetuneTask.build(from_dict(FinetuneTaskConfig, raw), NAMES).eval()
        batch = task.prepare(tiny.make_batch(0))
        shape = (tiny.GLOBAL_BATCH, 3) if kind == "set" else (tiny.GLOBAL_BATCH,)
        batch["labels"] = torch.full(shape, -100)
        total, _ = task(batch).losses["teacher/answers"]
        theirs = mmfm.load(path, device="cpu").task
        pair = [t(batch, predict=True).predictions["logits"] for t in (task, theirs)]
        want = answer_error(*pair, "set", 1.0)
        torch.testing.assert_close(total, want.sum())
        assert total > 0.1
    order = {**levels, "order": NAMES[::-1]}
    raw = recipe(tokenizer, head=order, teacher={"path": str(tmp_path / "0")})
    with pytest.raises(ConfigError, match="its head gives other answers than this one"):
        FinetuneTask.build(from_dict(FinetuneTaskConfig, raw), NAMES)


def test_the_teacher_runs_once_and_is_no_part_of_the_task(tokenizer: str, teacher: str) -> None:
    task = student(tokenizer, {"path": teacher, "hidden": 1.0})
    of_teacher = task.objectives["teacher"].teacher
    runs = []
    encode = of_teacher.model.encode
    of_teacher.model.encode = lambda *args: runs.append(1) or encode(*args)
    for _ in range(2):
        batch = task.prepare(make_batch())
        task(batch)
    assert len(runs) == 2
    names = {name for name in task.state_dict() if "teacher" in name}
    projections = {f"objectives.teacher_{m}.project" for m in ("image", "text")}
    assert names == {f"{p}.{kind}" for p in projections for kind in ("weight", "bias")}
    assert task.raw == ("image", "text")


def test_a_student_of_the_same_width_starts_from_the_identity(
    tokenizer: str, tmp_path: Path
) -> None:
    path = write(tmp_path, recipe(tokenizer))
    task = student(tokenizer, {"path": path, "hidden": 1.0, "weight": 0.0})
    assert set(task.objectives) == {"head", "teacher_image", "teacher_text"}
    assert torch.equal(task.objectives["teacher_text"].project.weight, torch.eye(16))
    task.model.load_state_dict(task.objectives["teacher_text"].teacher.model.state_dict())
    losses = task.eval()(task.prepare(make_batch())).losses
    assert losses["teacher_text/text"][0].item() == 0.0


def test_without_a_teacher_the_first_weights_are_the_same(tokenizer: str, teacher: str) -> None:
    one = student(tokenizer, {"path": teacher})
    other = student(tokenizer, None)
    for name, tensor in other.state_dict().items():
        assert torch.equal(one.state_dict()[name], tensor), name


def test_a_teacher_with_lora(tokenizer: str, tmp_path: Path) -> None:
    raw = recipe(tokenizer, lora={"rank": 2, "alpha": 2.0})
    path = write(tmp_path, raw)
    task = student(tokenizer, {"path": path})
    batch = make_batch()
    found = task.objectives["teacher"].teacher.outputs(batch)["logits"]
    want = mmfm.load(path, device="cpu").task(batch, predict=True).predictions["logits"]
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


def test_what_was_trained_is_loaded_without_its_teacher(
    tokenizer: str, teacher: str, tmp_path: Path
) -> None:
    raw = recipe(tokenizer, teacher={"path": teacher, "hidden": 1.0})
    path = write(tmp_path, raw)
    task = mmfm.load(path, device="cpu").task
    assert set(task.objectives) == {"head"}
    full = build(raw, NAMES)
    assert set(full.objectives) == {"head", "teacher", "teacher_image", "teacher_text"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": 0.0}, "one must be above 0"),
        ({"weight": -1.0, "hidden": 1.0}, "neither may be negative"),
        ({"temperature": 0.0}, r"temperature = 0\.0 must be above 0"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"teacher: .*{message}"):
        from_dict(FinetuneTaskConfig, {
            "model": {"encoders": {"image": {"type": "vision_transformer"}}},
            "head": {"type": "classification", "label": "shape"},
            "teacher": {"path": "runs/x", **settings},
        })  # fmt: skip


def test_teachers_that_do_not_fit(tokenizer: str, teacher: str, tmp_path: Path) -> None:
    def refused(message: str, path: str, **more) -> None:
        with pytest.raises(ConfigError, match=f"teacher: .*{message}"):
            student(tokenizer, {"path": path, **more.pop("settings", {})}, **more)

    refused("there is no checkpoint in", str(tmp_path / "nowhere"))
    pretrained = teachers.write(tmp_path / "pretrained", teachers.settings(tokenizer))
    refused("has no head: it was pretrained", pretrained)
    other = write(tmp_path / "other", recipe(tokenizer), ["circle", "square", "ring"])
    refused("its head gives other answers than this one", other)
    field = write(tmp_path / "field", recipe(tokenizer, head={**HEAD, "label": "colour"}))
    refused("learnt 'colour', the head 'shape'", field)
    reads = write(tmp_path / "reads", recipe(tokenizer, head={**HEAD, "modalities": ["text"]}))
    refused("its head reads other modalities", reads)
    retrieval = {"type": "retrieval", "pairs": [["image", "text"]]}
    refused("this kind of head learns no label", teacher, head=retrieval)
