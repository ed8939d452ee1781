"""Distillation against plain PyTorch in double precision; what a teacher may and may not be."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mmfm
from mmfm.config import ConfigError, from_dict, to_dict
from mmfm.model import Model
from mmfm.objectives._distillation.feature import feature_error
from mmfm.objectives._distillation.logit import affinity_loss
from mmfm.task import PretrainTask, PretrainTaskConfig, without
from mmfm.types import Batch
from tests import tiny
from tests.objectives import teachers

MODALITIES = ("image", "text", "audio")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("teachers")


@pytest.fixture(scope="module")
def small(tokenizer, folder) -> str:
    return teachers.write(folder / "small", teachers.settings(tokenizer))


@pytest.fixture(scope="module")
def large(tokenizer, folder) -> str:
    return teachers.write(folder / "large", teachers.settings(tokenizer, width=24))


def build(tokenizer: str, model: dict[str, Any] | None = None, **settings: Any) -> PretrainTask:
    """The tiny model with one objective, d."""
    recipe = tiny.task_settings(tokenizer)
    recipe["objectives"] = {"d": {"type": "distillation", **settings}}
    for modality, changes in (model or {}).items():
        recipe["model"]["encoders"][modality] |= changes
    return large_weights(PretrainTask.build(from_dict(PretrainTaskConfig, recipe)))


def large_weights(task: PretrainTask) -> PretrainTask:
    torch.manual_seed(0)
    for parameter in task.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return task


def mean_loss(task: PretrainTask, batch: Batch) -> Tensor:
    batch = task.prepare(batch)
    losses, counts = task(batch).losses, task.counts(batch)
    assert set(losses) == set(counts)
    for name, (_, count) in losses.items():
        assert count.item() == counts[name].item()
    return task.total(losses, counts)


# ------------------------------------------------------------------------------ the references


def embeddings(model: Model, batch: Batch, side: str) -> dict[int, Tensor]:
    """Sample ▶ its embedding in double precision."""
    wanted = side.split("+")
    found = model.encode(batch, [m for m in wanted if m in batch])
    if len(wanted) > 1:
        found = model.fuse(found, wanted)
    key = "fused" if len(wanted) > 1 else side
    return dict(zip(found.rows[key].tolist(), found.embedding[key].double(), strict=True))


def reference_embedding(student, teacher, project: Tensor | None, how: str) -> Tensor:
    """The mean over samples; `student` and `teacher`: as `embeddings` gives them."""
    losses = []
    for sample, point in student.items():
        target = teacher[sample]
        point = point if project is None else project.double() @ point
        if how == "cosine":
            losses.append(1 - point @ target / (point.norm() * target.norm()))
        else:
            losses.append((point - target).square().mean())
    return torch.stack(losses).mean()


def reference_feature(student: Tensor, teacher: Tensor, linear: torch.nn.Linear) -> Tensor:
    """[n,D] each: the mean over rows and over the teacher's width."""
    predicted = student.double() @ linear.weight.double().T + linear.bias.double()
    both = []
    for x in (predicted, teacher.double()):
        variance = x.var(-1, correction=0, keepdim=True)
        both.append((x - x.mean(-1, keepdim=True)) / (variance + 1e-5).sqrt())
    return (both[0] - both[1]).square().mean()


def reference_logit(student, teacher, temperature: float) -> Tensor:
    """KL of the full similarity matrices, both ways; `student`, `teacher`: (a, b) [N,E] each."""
    (a, b), (c, d) = ((x.double() for x in pair) for pair in (student, teacher))
    ours, theirs = a @ b.T / temperature, c @ d.T / temperature
    ways = [
        F.kl_div(x.log_softmax(1), y.softmax(1), reduction="batchmean")
        for x, y in ((ours, theirs), (ours.T, theirs.T))
    ]
    return torch.stack(ways).mean()


# ------------------------------------------------------------------------------ the losses


@pytest.mark.parametrize("how", ["cosine", "mse"])
@pytest.mark.parametrize("side", ["image", "audio", "audio+image"])
@pytest.mark.parametrize("size", ["small", "large"])
def test_embedding(tokenizer, small, large, how, side, size) -> None:
    """The teacher is what `mmfm.load` gives; a learned map only where the sizes differ."""
    path = {"small": small, "large": large}[size]
    task = build(tokenizer, teacher=path, what="embedding", modality=side, distance=how)
    batch = tiny.make_batch(0)
    teacher = embeddings(mmfm.load(path).model, batch, side)
    project = getattr(task.objectives["d"].project, "weight", None)
    assert (project is None) == (size == "small")
    want = reference_embedding(embeddings(task.model, batch, side), teacher, project, how)
    got = mean_loss(task, batch)
    assert got.item() == pytest.approx(want.item(), rel=1e-6)
    assert_same_gradients(task, got, want)


def assert_same_gradients(task: PretrainTask, got: Tensor, want: Tensor) -> None:
    trained = list(task.parameters())
    pairs = zip(
        torch.autograd.grad(got, trained, allow_unused=True),
        torch.autograd.grad(want, trained, allow_unused=True),
        strict=True,
    )
    seen = 0.0
    for one, other in pairs:
        assert (one is None) == (other is None)
        if one is not None and other.norm() > 1e-5:
            assert (one - other).norm() <= 1e-5 * other.norm() + 1e-8
            seen += float(other.norm())
    assert seen > 0.01


@pytest.mark.parametrize("of", ["pooled", "tokens"])
@pytest.mark.parametrize("modality", MODALITIES)
def test_feature(tokenizer, large, of, modality) -> None:
    task = build(tokenizer, teacher=large, what="feature", modality=modality, of=of)
    batch = tiny.make_batch(0)
    student = task.model.encode(batch, [modality])
    teacher = mmfm.load(large).model.encode(batch, [modality])
    one, other = getattr(student, of)[modality], getattr(teacher, of)[modality]
    if of == "tokens":
        valid = student.valid[modality]
        assert (not valid.all()) == (modality != "image")
        one, other = one[valid], other[valid]
    want = reference_feature(one, other, task.objectives["d"].project)
    got = mean_loss(task, batch)
    assert got.item() == pytest.approx(want.item(), rel=1e-6)
    assert_same_gradients(task, got, want)


def test_features_are_compared_without_their_scale() -> None:
    x = torch.randn(3, 5, 8)
    assert feature_error(x, 3 * x + 1).max() < 1e-5
    assert feature_error(x, torch.randn(3, 5, 8)).shape == (3, 5)
    low = feature_error(x.bfloat16(), x.bfloat16())
    assert low.dtype == torch.float32


@pytest.mark.parametrize("temperature", [None, 0.5])
def test_logit(tokenizer, large, temperature) -> None:
    pairs = [["image", "text"], ["audio+image", "text"]]
    given = {} if temperature is None else {"temperature": temperature}
    task = build(tokenizer, teacher=large, what="logit", pairs=pairs, **given)
    assert not list(task.objectives["d"].parameters())
    batch = tiny.make_batch(0)
    want = torch.zeros((), dtype=torch.float64)
    for pair in pairs:
        of_pair = []
        for model in (task.model, mmfm.load(large).model):
            sides = [embeddings(model, batch, side) for side in pair]
            both = sorted(set(sides[0]) & set(sides[1]))
            of_pair.append(tuple(torch.stack([s[i] for i in both]) for s in sides))
        want = want + reference_logit(*of_pair, temperature or 0.05)
    got = mean_loss(task, batch)
    assert got.item() == pytest.approx(want.item(), rel=1e-6)
    assert_same_gradients(task, got, want)


def test_a_student_that_is_the_teacher_has_nothing_to_learn() -> None:
    a, b = F.normalize(torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    total, count = affinity_loss((a, b), (a, b), 0.1)
    assert total.abs().item() < 1e-5
    assert count.item() == 9
    assert affinity_loss((a, b), (b, a.flip(0)), 0.1)[0].item() > 1


@pytest.mark.parametrize("kind", ["timm", "bert"])
def test_an_encoder_teaches_what_it_pools(tokenizer, tmp_path, kind) -> None:
    if kind == "timm":
        source, modality = teachers.timm_folder(tmp_path / "timm"), "image"
    else:
        source, modality = teachers.bert_folder(tmp_path / "bert", tokenizer), "text"
    task = build(tokenizer, teacher=source, modality=modality)
    batch = tiny.make_batch(0)
    (encoder,) = task.objectives["d"].teacher.model.encoders.values()
    pooled = encoder(batch[modality], batch.get(f"{modality}_mask"))[1]
    teacher = dict(zip(batch["rows"][modality].tolist(), pooled.double(), strict=True))
    student = embeddings(task.model, batch, modality)
    project = task.objectives["d"].project.weight
    want = reference_embedding(student, teacher, project, "cosine")
    assert mean_loss(task, batch).item() == pytest.approx(want.item(), rel=1e-6)
    for what in ({"what": "feature", "of": "pooled"}, {"distance": "mse"}):
        assert mean_loss(build(tokenizer, teacher=source, modality=modality, **what), batch) > 0


# ------------------------------------------------------------------------------ the teacher


def test_the_teacher_is_no_part_of_the_task(tokenizer, large) -> None:
    task = build(tokenizer, teacher=large, what="feature", modality="image").train()
    teacher = task.objectives["d"].teacher.model
    theirs = {id(x) for x in (*teacher.parameters(), *teacher.modules(), *teacher.buffers())}
    mine = (*task.parameters(), *task.modules(), *task.buffers())
    assert not theirs & {id(x) for x in mine}
    assert not any(m.training for m in teacher.modules())
    assert {n for n in task.state_dict() if n.startswith("objectives")} == {
        "objectives.d.project.weight",
        "objectives.d.project.bias",
    }
    before = {n: p.clone() for n, p in teacher.named_parameters()}
    mean_loss(task, tiny.make_batch(0)).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(before[n], p) for n, p in teacher.named_parameters())


def test_objectives_of_one_model_share_their_teacher(tokenizer, large, tmp_path) -> None:
    """It is in memory once; the objectives of another model have their own."""
    recipe = tiny.task_settings(tokenizer)
    taught = {"type": "distillation", "teacher": large}
    timm = taught | {"teacher": teachers.timm_folder(tmp_path / "timm"), "what": "feature"}
    recipe["objectives"] = {
        "a": taught | {"modality": "image"},
        "b": taught | {"what": "logit", "pairs": [["image", "text"]]},
        "c": timm | {"modality": "image"},
    }
    config = from_dict(PretrainTaskConfig, recipe)
    one, other = (PretrainTask.build(config) for _ in range(2))
    a, b, c = (objective.teacher.model for objective in one.objectives.values())
    assert a is b
    assert a is not c
    assert other.objectives["a"].teacher.model is not a


def test_the_teacher_changes_no_other_weight(tokenizer, large) -> None:
    """What is drawn for the objectives after it is drawn as if it were not there."""
    recipe = tiny.task_settings(tokenizer)
    torch.manual_seed(0)
    plain = PretrainTask.build(from_dict(PretrainTaskConfig, recipe))
    taught = {
        "type": "distillation",
        "teacher": large,
        "what": "logit",
        "pairs": [["image", "text"]],
    }
    recipe["objectives"] = {"d": taught, **recipe["objectives"]}
    torch.manual_seed(0)
    task = PretrainTask.build(from_dict(PretrainTaskConfig, recipe))
    assert set(task.state_dict()) == set(plain.state_dict())
    assert all(torch.equal(w, task.state_dict()[n]) for n, w in plain.state_dict().items())


KINDS: tuple[dict[str, Any], ...] = (
    {"what": "embedding", "modality": "image"},
    {"what": "embedding", "modality": "audio+image"},
    {"what": "feature", "modality": "text", "of": "tokens"},
    {"what": "feature", "modality": "audio"},
    {"what": "logit", "pairs": [["image", "text"], ["audio", "text"]]},
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: " ".join(map(str, kind.values())))
def test_any_modality_may_be_missing(tokenizer, large, kind) -> None:
    task = build(tokenizer, teacher=large, **kind)
    for gone in [gone for n in range(4) for gone in combinations(MODALITIES, n)]:
        loss = mean_loss(task, without(tiny.make_batch(3), gone))
        assert loss.isfinite()
        if len(gone) == 3:
            assert loss.item() == 0.0


def test_the_teacher_reads_the_inputs_and_no_cached_outputs(tokenizer, large) -> None:
    """Behind a cached encoder the batch holds both."""
    recipe = tiny.task_settings(tokenizer)
    cached = {"frozen": True, "cache": True}
    recipe["model"]["encoders"]["image"] |= cached
    del recipe["objectives"]["masked_image"]
    teacher = teachers.write(Path(large).parent.parent / "cached", recipe)
    task = build(tokenizer, {"image": cached}, teacher=teacher, modality="image")
    assert task.raw == ("image",)
    batch = tiny.make_batch(0)
    plain = mean_loss(task, batch).item()
    tokens, pooled = task.model.encoder("image")(batch["image"])
    batch |= {"image_tokens": tokens, "image_pooled": pooled}
    batch["image_tokens_mask"] = torch.ones(tokens.shape[:2], dtype=torch.bool)
    assert mean_loss(task, batch).item() == pytest.approx(plain, rel=1e-6)


def test_in_training_the_teacher_runs_once_for_all_passes(tokenizer, large, monkeypatch) -> None:
    task = build(tokenizer, teacher=large, what="logit", pairs=[["image", "text"]])
    teacher, runs = task.objectives["d"].teacher, []
    encode = teacher.model.encode
    monkeypatch.setattr(teacher.model, "encode", lambda *a: runs.append(a) or encode(*a))
    batch = task.train().prepare(tiny.make_batch(0))
    rows = task(batch, rows_only=True).rows["d"]
    assert {n.split(".")[1] for n in rows} == {"a", "b", "group", "teacher_a", "teacher_b"}
    in_training = task(batch).losses["d/image_text"][0]
    assert len(runs) == 1
    batch = task.eval().prepare(tiny.make_batch(0))
    assert len(runs) == 1
    assert task(batch).losses["d/image_text"][0].item() == in_training.item()
    assert len(runs) == 2


def test_the_teacher_follows_the_students_precision(tokenizer, large) -> None:
    """As DeepSpeed's bf16 does it: parameters only."""
    task = build(tokenizer, teacher=large, modality="audio")
    batch = tiny.make_batch(0)
    exact = mean_loss(task, batch).item()
    for parameter in task.parameters():
        parameter.data = parameter.data.bfloat16()
    assert mean_loss(task, batch).item() == pytest.approx(exact, rel=0.1)
    teacher = task.objectives["d"].teacher.model
    assert {p.dtype for p in teacher.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in teacher.buffers() if b.is_floating_point()} == {torch.float32}


# ------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"teacher": "nowhere", "modality": "image"},
            r"objectives\.d: teacher nowhere: there is no",
        ),
        ({"modality": "image", "teacher": None}, r"objectives\.d\.teacher"),
        ({}, r"objectives\.d: what = embedding needs modality"),
        ({"what": "logit"}, "what = logit needs pairs"),
        ({"what": "logit", "pairs": [["image"]]}, r"needs a list of pairs"),
        (
            {"what": "logit", "pairs": [["image", "text"]], "modality": "image"},
            "modality means noth",
        ),
        ({"modality": "image", "of": "tokens"}, "of means nothing with what = embedding"),
        ({"what": "feature", "modality": "image", "temperature": 1.0}, "temperature means nothing"),
        ({"what": "logit", "pairs": [["image", "text"]], "temperature": 0.0}, "must be above 0"),
        ({"modality": "video"}, r"modality: 'video' names 'video', the model has only"),
        ({"what": "feature", "modality": "video"}, "no encoder of 'video'"),
        ({"teacher": {"type": "timm_modle"}, "modality": "image"}, "no module 'timm_modle'"),
        (
            {"teacher": {"type": "timm_model", "name": "test_efficientnet"}, "modality": "image"},
            "teacher timm_model: its weights are random: set pretrained",
        ),
        (
            {"teacher": {"type": "timm_model", "weights": "x"}, "modality": "audio+image"},
            "an encoder can't read audio and image: name a checkpoint",
        ),
    ],
)
def test_refusals(tokenizer, large, settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tokenizer, **{"teacher": large, **settings})


def test_a_frozen_encoder_learns_no_features(tokenizer, large) -> None:
    with pytest.raises(ConfigError, match=r"teaches model\.encoders\.image, which is frozen"):
        build(
            tokenizer, {"image": {"frozen": True}},
            teacher=large, what="feature", modality="image",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("modality", "changes", "message"),
    [
        ("image", {"image_size": 16}, r"its image inputs have size = 8, those of the model 16: ch"),
        ("image", {"std": [0.5, 0.5, 0.4]}, r"have std = \[0\.5, 0\.5, 0\.5\], those of the model"),
        ("text", {"max_length": 6}, r"its text inputs have max_length = 8, .* change model\.enc"),
        ("audio", {"sample_rate": 500, "max_seconds": 0.512}, "have sample_rate = 1000, those of"),
    ],
)
def test_other_inputs_are_refused(tokenizer, large, modality, changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tokenizer, {modality: changes}, teacher=large, modality=modality)


def test_another_tokenizer_is_refused_wherever_it_lies(tokenizer, large, tmp_path) -> None:
    from mmfm.data.tokenizer import load_tokenizer, train_bpe

    load_tokenizer(tokenizer).save(tmp_path / "same")
    build(
        tokenizer, {"text": {"tokenizer": str(tmp_path / "same")}}, teacher=large, modality="text"
    )
    train_bpe(["quite other words"], vocab_size=300, folder=tmp_path / "other")
    other = {"text": {"tokenizer": str(tmp_path / "other")}}
    with pytest.raises(ConfigError, match="its text inputs have another tokenizer than the model"):
        build(tokenizer, other, teacher=large, modality="text")


def test_another_grid_is_refused_for_tokens_only(tokenizer, large) -> None:
    finer = {"image": {"patch_size": 2}}
    settings = {"teacher": large, "what": "feature", "modality": "image"}
    with pytest.raises(
        ConfigError, match=r"16 tokens of image in a grid \(4, 4\), the teacher 4 in"
    ):
        build(tokenizer, finer, of="tokens", **settings)
    assert mean_loss(build(tokenizer, finer, of="pooled", **settings), tiny.make_batch(0)) > 0


def test_a_teacher_without_the_modality_or_fusion_is_refused(tokenizer, tmp_path) -> None:
    recipe = tiny.task_settings(tokenizer)
    del recipe["model"]["encoders"]["audio"], recipe["objectives"]["masked_audio"]
    recipe["objectives"]["contrastive"]["pairs"] = [["image", "text"]]
    recipe["model"]["fusion"] = None
    path = teachers.write(tmp_path, recipe)
    with pytest.raises(ConfigError, match=r"the model has no encoder of 'audio'"):
        build(tokenizer, teacher=path, modality="audio")
    with pytest.raises(ConfigError, match="it has no fusion, and so no embedding of several"):
        build(tokenizer, teacher=path, modality="image+text")


def test_the_settings_come_back_from_a_runs_config(tokenizer, large) -> None:
    for source in (large, {"type": "timm_model", "weights": "a/folder"}):
        raw = {"type": "distillation", "teacher": source, "modality": "image", "distance": "mse"}
        recipe = tiny.task_settings(tokenizer)
        recipe["objectives"] = {"d": raw}
        config = from_dict(PretrainTaskConfig, recipe)
        stored = to_dict(config)
        assert stored["objectives"]["d"]["teacher"] == source
        assert from_dict(PretrainTaskConfig, stored) == config
