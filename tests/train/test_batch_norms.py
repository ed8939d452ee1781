"""A run whose batch norms train: the same on any ranks, micro-batches and stage, and continued."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

import mmfm
from mmfm import cli
from mmfm.checkpoint import Checkpoint
from mmfm.train.health import nonfinite
from tests import launch
from tests.encoders.helpers import config
from tests.tiny_runs import IN_PARTS, exact, training

STEPS = 6
IMAGE = "type: timm_model, name: test_efficientnet, image_size: 32"


def finetune(data: Path, run: Path, *more: str, size: str = "4") -> list[str]:
    """A classification of pictures: each of the 4 samples that a stream has in a step is one."""
    image = f"{{{IMAGE}, batch_norm_size: {size}}}"
    source = f"{{path: {data}, splits: [train], modalities: [image]}}"
    return [
        *("finetune", str(launch.ROOT / "configs/finetune/tiny.yaml"), f"run.dir={run}"),
        *("init=null", f"model={{encoders: {{image: {image}}}, fusion: null}}"),
        *("head.modalities=[image]", f"data.sources.synthetic={source}", "eval.tasks={}"),
        *("train.save_every=3", f"train.max_steps={STEPS}", "train.keep_checkpoints=9"),
        *("eval.sources={}", "run.trackers=[]", "report=null", "optim.warmup_steps=1"),
        *more,
    ]


@pytest.fixture(scope="module")
def runs(synthetic: Path, tmp_path_factory) -> Path:
    """On two ranks: a run, one that goes on from its step 3, and one at stage 3."""
    folder = tmp_path_factory.mktemp("norms")
    resume = f"run.resume={folder}/whole/checkpoints/step_00000003"
    commands = [
        finetune(synthetic, folder / "whole"),
        finetune(synthetic, folder / "on", resume),
        finetune(synthetic, folder / "bf16", "train.precision=bf16"),
        finetune(synthetic, folder / "stage3", "train.zero_stage=3", IN_PARTS),
    ]
    path = folder / "commands.json"
    path.write_text(json.dumps(commands))
    launch.on_ranks(2, "tests.train.run_worker", str(path))
    return folder


def statistics(run: Path) -> dict[str, Tensor]:
    held = Checkpoint.open(run).tensors("model")
    return {name: t for name, t in held.items() if "running_" in name}


def test_the_statistics_move(runs: Path) -> None:
    steps = runs / "whole/checkpoints"
    third, last = (statistics(steps / f"step_{step:08d}") for step in (3, STEPS))
    assert not [name for name in last if torch.equal(last[name], third[name])]


def test_a_continued_run_equals_the_uninterrupted_one_bit_for_bit(runs: Path) -> None:
    want, got = exact(runs / "whole"), exact(runs / "on")
    assert got == {step: want[step] for step in range(4, STEPS + 1)}
    before, after = statistics(runs / "whole"), statistics(runs / "on")
    assert before
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("how", ["stage3", "one rank", "four micro-batches"])
def test_any_ranks_micro_batches_and_stage_train_alike(
    runs: Path, synthetic: Path, tmp_path: Path, how: str
) -> None:
    run = runs / how
    if how != "stage3":
        run, more = tmp_path / "run", ["train.micro_batch_size=8"] if "four" in how else []
        assert cli.main(finetune(synthetic, run, *more)) == 0
    want, got = training(runs / "whole"), training(run)
    for step in range(1, STEPS + 1):
        assert got[step]["batch_hash"] == want[step]["batch_hash"]
        assert got[step]["loss"] == pytest.approx(want[step]["loss"], rel=1e-5), step
    for name, value in statistics(runs / "whole").items():
        torch.testing.assert_close(statistics(run)[name], value, rtol=1e-4, atol=1e-5)


def test_the_statistics_stay_in_fp32_under_bf16(runs: Path) -> None:
    want = statistics(runs / "whole")
    for name, value in statistics(runs / "bf16").items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, want[name], rtol=0.1, atol=0.1)


def test_evaluation_normalises_with_what_training_left(runs: Path) -> None:
    """And so a picture's embedding doesn't depend on those beside it."""
    predictor = mmfm.load(runs / "whole", "cpu")
    encoder = predictor.model.encoder("image")
    held = statistics(runs / "whole")
    own = {f"model.encoders.image.{n}": b for n, b in encoder.named_buffers()}
    assert all(torch.equal(own[name], value) for name, value in held.items())
    pictures = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        together, alone = encoder(pictures)[1], encoder(pictures[:1])[1]
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("optim.ema={decay: 0.9}", "optim.ema averages weights"),
        ("train.recompute_activations=true", "would measure each batch norm twice"),
    ],
)
def test_what_knows_weights_only_is_refused(
    synthetic: Path, tmp_path: Path, capfd, more: str, why: str
) -> None:
    assert cli.main(finetune(synthetic, tmp_path / "run", more)) != 0
    assert why in capfd.readouterr().err


@pytest.mark.parametrize(("size", "told"), [("3", True), ("4", False)])
def test_groups_that_ranks_would_cut_are_told(
    synthetic: Path, tmp_path: Path, size: str, told: bool
) -> None:
    words = finetune(synthetic, tmp_path / "run", "train.max_steps=1", size=size)
    assert cli.main(words) == 0
    log = (tmp_path / "run/log.txt").read_text()
    assert ("batch_norm_size = 3 doesn't divide the 4 samples" in log) is told


@pytest.mark.parametrize("masked_view", [True, False])
def test_pictures_of_which_only_some_are_masked_as_well_are_told(
    synthetic: Path, tmp_path: Path, capfd, masked_view: bool
) -> None:
    """The masked view has its own groups, and which samples enter it is drawn."""
    source = {"path": str(synthetic), "splits": ["train"], "modalities": ["image"]}
    sources = {"all": source, "some": {**source, "masked_view": masked_view}}
    recipe = {
        "run": {"dir": str(tmp_path / "run")},
        "data": {"sources": sources, "global_batch_size": 32, "streams": 8},
        "model": {"encoders": {"image": yaml.safe_load(f"{{{IMAGE}, batch_norm_size: 4}}")}},
        "objectives": {"masked_image": {"type": "masked_image", "decoder_width": 16}},
        "optim": {"lr": 1e-3},
        "train": {"max_steps": 2},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert cli.main(["pretrain", str(tmp_path / "recipe.yaml"), "--dry-run"]) == 0
    told = "batch_norm_size = 4 doesn't divide" in capfd.readouterr().out
    assert told is not masked_view


def test_frozen_by_the_recipe_they_are_at_rest(runs: Path, synthetic: Path, tmp_path: Path) -> None:
    more = (f"init={runs}/whole", "freeze=encoders", "train.max_steps=1")
    words = [word for word in finetune(synthetic, tmp_path / "run", *more) if word != "init=null"]
    assert cli.main(words) == 0
    assert mmfm.load(tmp_path / "run", "cpu").model.encoder("image").norms is None
    before, after = statistics(runs / "whole"), statistics(tmp_path / "run")
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("size", [None, 4])
def test_rows_of_a_group_are_no_samples(size: int | None) -> None:
    """A report of what isn't finite names them by the whole encoder's rows only."""
    root = nn.Module()
    root.model = nn.Module()
    encoder = config(type="timm_model", name="test_efficientnet", batch_norm_size=size).build()
    root.model.encoders = nn.ModuleDict({"image": encoder})
    batch = {"rows": {"image": torch.arange(4)}, "sample_id": list("abcd")}
    bad = torch.zeros(4, 2)
    bad[1, 0] = torch.nan
    inside = nonfinite._samples_of(root, "model.encoders.image.model.conv_stem", bad, batch)
    assert inside == (["b"] if size is None else [])
    assert nonfinite._samples_of(root, "model.encoders.image", bad, batch) == ["b"]
