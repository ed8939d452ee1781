"""Fine-tuning that begins with a fine-tuned checkpoint: the head goes on, new labels come behind
the old ones, and what it was trained on before is replayed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import mmfm
from mmfm import cli
from mmfm.checkpoint import Checkpoint
from mmfm.config import ConfigError, dump
from mmfm.data.manifest import Manifest
from mmfm.data.pipeline import SourceConfig
from mmfm.data.sequential import SequentialData
from mmfm.task import FinetuneTask
from mmfm.train.epochs import count_samples
from mmfm.train.finetune import prepare
from mmfm.train.head.refit import HeadBefore, join_replay, take_head
from mmfm.train.recipe import FinetuneConfig, load_finetune
from mmfm.train.run import Run
from mmfm.types import Label
from tests import tiny
from tests.tiny_runs import pretrain
from tests.train.test_finetune import RETRIEVAL, RETRIEVAL_EVAL, finetune

SHAPES = ["circle", "cross", "ring", "square", "star", "triangle"]
NEW = "arcade"  # as long as the name that it replaces, and before all others in the alphabet


@pytest.fixture(scope="module")
def first(synthetic, tmp_path_factory) -> Path:
    """A run that learnt the shapes, with a head that has moved."""
    folder = tmp_path_factory.mktemp("refit")
    assert cli.main(pretrain(synthetic, folder / "pretrained", "train.max_steps=1")) == 0
    words = finetune(synthetic, folder / "pretrained", folder / "first", "optim.warmup_steps=0")
    assert cli.main([*words, "data.sources.synthetic.weight=3"]) == 0
    return folder / "first"


@pytest.fixture(scope="module")
def grown(synthetic, tmp_path_factory) -> Path:
    """The set without circles, which are something new."""
    folder = tmp_path_factory.mktemp("grown") / "data"
    shutil.copytree(synthetic, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["labels"]["shape"] = sorted({*SHAPES, NEW} - {"circle"})
    for shard in manifest["shards"]:
        data = (folder / shard["name"]).read_bytes().replace(b'"circle"', f'"{NEW}"'.encode())
        (folder / shard["name"]).write_bytes(data)
        shard["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def prepared(data: Path, init: Path, run: Path, *more: str) -> Run:
    _, config, *overrides = finetune(data, init, run, *more)
    return prepare(config, overrides)


def some_batch(data: Path, run: Run):
    source = [("held_out", Manifest.open(data, ["val"]))]
    return next(iter(SequentialData(source, run.task.specs, batch_size=64, rank=0, world_size=1)))


def test_old_labels_keep_their_place_and_their_logits(
    first: Path, grown: Path, synthetic: Path, tmp_path: Path
) -> None:
    run = prepared(grown, first, tmp_path / "run")
    assert run.label is not None
    assert run.label.names == [*SHAPES, NEW]
    assert (
        f"head      goes on from that of {first}/checkpoints/step_00000004; new behind its "
        in (run.notes[0])
    )
    assert run.notes[0].endswith(f"6 labels: {NEW}")
    batch = some_batch(synthetic, run)
    with torch.no_grad():
        found = run.task.eval()(batch, predict=True).predictions["logits"]
        want = mmfm.load(first).task(batch, predict=True).predictions["logits"]
    assert want.abs().max() > 1e-3
    assert torch.equal(found[:, :6], want)
    assert found.shape[1] == 7
    new = run.task.head.classifier.weight[6]
    assert 0.01 < new.std() < 0.03  # drawn, as those of a new head
    assert run.task.head.classifier.bias[6] == 0


def test_a_refit_through_the_command_and_its_resume(
    first: Path, grown: Path, tmp_path: Path
) -> None:
    words = finetune(grown, first, tmp_path / "run", "replay=0.25", "train.max_steps=2")
    assert cli.main(words) == 0
    assert cli.main([*words, "train.max_steps=3"]) == 0
    predictor = mmfm.load(tmp_path / "run")
    assert predictor.label is not None
    assert predictor.label.names == [*SHAPES, NEW]
    assert set(predictor.config["data"]["sources"]) == {"synthetic", "replay-synthetic"}
    # What it wrote is a recipe for the same draws.
    config = str(tmp_path / "run/config.yaml")
    again = prepare(config, [f"run.dir={tmp_path / 'again'}"])
    sources = {n: (s.path, s.weight) for n, s in again.recipe.data.sources.items()}
    kept = predictor.config["data"]["sources"]
    assert sources == {n: (s["path"], s["weight"]) for n, s in kept.items()}


@pytest.mark.parametrize(
    ("share", "more"), [(0.25, ()), (0.6, ()), (0.25, ("data.sources.synthetic.weight=5",))]
)
def test_replay_has_its_share_of_the_draws(
    first: Path, grown: Path, synthetic: Path, tmp_path: Path, share: float, more: tuple[str, ...]
) -> None:
    run = prepared(grown, first, tmp_path / "run", f"replay={share}", *more)
    strata = run.pipeline(1).order.strata
    weights = {name: sum(s.weight for s in strata if s.source_name == name) for name in (
        "synthetic", "replay-synthetic",
    )}  # fmt: skip
    assert weights["replay-synthetic"] / sum(weights.values()) == pytest.approx(share, abs=2e-3)
    assert run.recipe.data.sources["replay-synthetic"].path == str(synthetic)
    assert run.recipe.data.sources["synthetic"].path == str(grown)


def test_a_source_that_has_moved(first: Path, grown: Path, synthetic: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(first, tmp_path / "first")
    file = copy / "checkpoints/step_00000004/config.yaml"
    file.write_text(file.read_text().replace(str(synthetic), str(tmp_path / "gone")))
    manifest = file.with_name("manifest.json")
    told = json.loads(manifest.read_text())
    data = file.read_bytes()
    told["files"]["config.yaml"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest.write_text(json.dumps(told))
    message = r"replay: a source of .* can't be opened any more \(.*gone.*sources\.replay-synthetic"
    with pytest.raises(ConfigError, match=message):
        prepared(grown, copy, tmp_path / "run", "replay=0.2")
    moved = (f"data.sources.replay-synthetic.path={synthetic}",)
    run = prepared(grown, copy, tmp_path / "run", "replay=0.2", *moved)
    assert run.recipe.data.sources["replay-synthetic"].splits == ["train"]
    assert run.recipe.data.sources["replay-synthetic"].weight == pytest.approx(
        0.25 * sum(s.samples for s in run.pipeline(1).order.strata if s.source_name == "synthetic")
    )


def test_epochs_are_of_the_new_data(first: Path, grown: Path, tmp_path: Path) -> None:
    more = ("replay=0.2", "train.epochs=2", "train.max_steps=null")
    _, config, *overrides = finetune(grown, first, tmp_path / "run", *more)
    recipe = load_finetune(config, overrides)
    samples = count_samples(manifest for _, manifest, _ in recipe.data.open_sources())
    steps = -(-2 * samples * 10 // (8 * recipe.data.global_batch_size))
    assert recipe.train.max_steps == steps
    # The recipe that the run writes names what is replayed as its sources.
    join_replay(recipe, Checkpoint.open(first))
    (tmp_path / "config.yaml").write_text(dump(recipe))
    assert load_finetune(tmp_path / "config.yaml").train.max_steps == steps
    with pytest.raises(ConfigError, match=r"samples in batches of \d+, 0\.2 of them replay\), but"):
        load_finetune(tmp_path / "config.yaml", ["train.epochs=3"])
    with pytest.raises(ConfigError, match=r"replay = 1 is a share of the draws"):
        load_finetune(config, [*overrides, "replay=1"])


def test_a_head_that_was_trained_on_mixed_inputs(first: Path, grown: Path, tmp_path: Path) -> None:
    """It goes on where the encoder is cached now, so that nothing can be mixed any more."""
    encoder = "model.encoders.image={frozen: true, cache: true}"
    more = (encoder, "head.modalities=[image]")
    task = prepared(grown, first, tmp_path / "run", "init_head=never", *more).task
    assert isinstance(task, FinetuneTask)
    settings = {"type": "classification", "label": "shape", "modalities": ["image"]}
    label = Label("shape", task.head.label_names)
    weights = {name: torch.ones_like(one) for name, one in task.head.state_dict().items()}
    before = HeadBefore({**settings, "mix": {"mixup": 0.2}}, label, weights, "runs/old")
    assert take_head(task, before) == "goes on from that of runs/old"
    assert task.head.classifier.weight.all()


def test_a_weight_that_the_recipe_gives_counts(
    first: Path, grown: Path, synthetic: Path, tmp_path: Path, monkeypatch
) -> None:
    """Beside the 3 that the other source had; and the weights that come out stay what they are."""
    recipe = prepared(grown, first, tmp_path / "run").recipe
    assert isinstance(recipe, FinetuneConfig)
    found = Checkpoint.open(first)
    config = found.config
    config["data"]["sources"]["other"] = {"path": str(synthetic), "weight": 1.0}
    monkeypatch.setattr(Checkpoint, "config", config)
    recipe.replay = 0.3
    recipe.data.sources["replay-other"] = SourceConfig(path=str(synthetic), weight=9.0)

    def weights() -> list[float | None]:
        join_replay(recipe, found)
        return [recipe.data.sources[f"replay-{name}"].weight for name in ("synthetic", "other")]

    had, given = once = weights()
    assert given == pytest.approx(3 * had)
    assert weights() == once


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("init_head=never",), "init_head is never"),
        (("head.label=colour",), "learnt a class of 'shape'"),
        (("head.multi_label=true",), "learnt a class of 'shape'"),
        ((RETRIEVAL, RETRIEVAL_EVAL), "is of type classification"),
    ],
)
def test_a_head_that_begins_anew_says_so(
    first: Path, grown: Path, tmp_path: Path, more: tuple[str, ...], reason: str
) -> None:
    run = prepared(grown, first, tmp_path / "run", *more)
    assert run.notes[0].startswith("head      begins anew: ")
    assert run.notes[0].endswith(reason)
    if run.label is not None:
        assert run.label.names == sorted(run.label.names)
        assert not run.task.head.classifier.bias.any()


def test_a_pretrained_checkpoint_has_none(first: Path, grown: Path, tmp_path: Path) -> None:
    run = prepared(grown, first.parent / "pretrained", tmp_path / "run")
    assert run.notes == [
        f"head      begins anew: {first.parent}/pretrained/checkpoints/step_00000001 has none"
    ]


def test_one_that_reads_something_else_is_refused(first: Path, grown: Path, tmp_path: Path) -> None:
    for modalities in ("[image, text]", "[image]"):
        with pytest.raises(ConfigError, match="other modalities; with init_head=never a new one"):
            prepared(grown, first, tmp_path / "run", f"head.modalities={modalities}")


def levels(tokenizer: Path, order: list[str], loss: str) -> tuple[FinetuneTask, dict[str, Any]]:
    """A task whose head learnt levels, with weights that have moved; and the head's settings."""
    raw = tiny.task_settings(str(tokenizer))
    del raw["objectives"]
    head = {"type": "regression", "label": "wind", "order": order, "loss": loss, "mean": 1.0}
    raw["head"] = {**head, "deviation": float(len(order))}
    task = mmfm.build(raw, label_names=sorted(order))
    assert isinstance(task, FinetuneTask)
    torch.nn.init.normal_(task.head.classifier.weight)
    return task, raw["head"]


def test_levels_and_units_go_on(synthetic: Path) -> None:
    calm = ["calm", "breezy"]
    old, settings = levels(synthetic / "tokenizer", calm, "ordinal")
    label = Label("wind", sorted(calm))
    before = HeadBefore(settings, label, old.head.state_dict(), "runs/old")
    more, _ = levels(synthetic / "tokenizer", [*calm, "stormy"], "ordinal")
    fresh = more.head.classifier.weight.clone()
    take_head(more, before)
    assert torch.equal(more.head.classifier.weight[:1], old.head.classifier.weight)
    assert torch.equal(more.head.classifier.weight[1:], fresh[1:])
    assert more.head.deviation == 2.0
    for order, loss, message in (
        (["stormy", *calm], "ordinal", "its levels .* are not the first of"),
        ([*calm, "stormy"], "mse", "its loss is ordinal, this one's mse"),
    ):
        other, _ = levels(synthetic / "tokenizer", order, loss)
        with pytest.raises(ConfigError, match=f"{message}.*; with init_head=never"):
            take_head(other, before)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("replay=1",), r"replay = 1\.0 is a share"),
        (
            ("replay=0.2", "init=null", "model={encoders: {image: {type: vision_transformer}}}"),
            "replay is of what a checkpoint was trained on: name it as init",
        ),
    ],
)
def test_bad_settings(first: Path, grown: Path, tmp_path: Path, more, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepared(grown, first, tmp_path / "run", *more)
