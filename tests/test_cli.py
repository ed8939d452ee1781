"""What a user does wrong gives exit code 2 and one line that helps, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from mmfm import cli
from mmfm.train import command
from tests.launch import ROOT, deepspeed
from tests.tiny_runs import on, pretrain, training

FINETUNE = str(ROOT / "configs/finetune/tiny.yaml")


def refused(arguments: list[str], run: Path, capfd) -> str:
    """The one line that the command says when it refuses; nothing is written."""
    assert cli.main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith(f"mmfm {arguments[0]}: error: ")
    assert not run.exists()
    return lines[0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_step=5", "unknown key train.max_step; did you mean 'max_steps'?"),
        ("modle.embed_dim=5", "unknown key modle; did you mean 'model'?"),
        ("model.encoders.image.widht=8", "model.encoders.image.widht; did you mean 'width'?"),
        ("model.encoders.image.type=vision_transfomer", "did you mean 'vision_transformer'?"),
        ("train.max_steps=many", "train.max_steps = 'many'"),
        ("train.max_steps=0", "max_steps = 0 must be at least 1"),
        ("run.seed=99999999999999999999", "run: seed = 99999999999999999999 must be from 0"),
        ("data.workers=true", "data.workers = True: a number is needed"),
        ("train.zero_stage=4", "train.zero_stage = 4"),
        ("train.precision=bf16", ""),
        ("no-equals-sign", "override 'no-equals-sign' must look like key.sub=value"),
        ("data.sources.synthetic.path=/nowhere", "data.sources.synthetic: "),
        ("data.sources.synthetic.splits=[trian]", "did you mean 'train'?"),
        ("data.streams=5", "streams"),
        ("train.micro_batch_size=5", "train.micro_batch_size = 5"),
        ("model.encoders.text.tokenizer=/nowhere/tokenizer", "/nowhere/tokenizer"),
        ("init=/nowhere/run", "there is no checkpoint in /nowhere/run"),
        ("run.resume=/nowhere/run", "there is no checkpoint in /nowhere/run"),
        ("objectives.contrastive.pairs=[[image, video]]", "objectives.contrastive"),
        ("deepspeed.train_batch_size=8", "deepspeed.train_batch_size follows from"),
        ("--no-such-option", "--no-such-option"),
    ],
)
def test_bad_settings(synthetic: Path, tmp_path: Path, capfd, override: str, message: str) -> None:
    words = pretrain(synthetic, tmp_path / "run", override)
    if override == "train.precision=bf16":
        words.append("train.zero_stage=0")
        message = "train.precision = bf16"
    assert message in refused(words, tmp_path / "run", capfd)


def test_missing_config(tmp_path: Path, capfd) -> None:
    words = ["pretrain", str(ROOT / "configs/pretrain/tinny.yaml"), f"run.dir={tmp_path}/run"]
    assert "Did you mean" in refused(words, tmp_path / "run", capfd)
    assert "required: config" in refused(["pretrain"], tmp_path / "run", capfd)


def test_unknown_command(capfd) -> None:
    assert cli.main(["pretrian"]) == 2
    assert capfd.readouterr().err.splitlines() == [
        "mmfm: there is no command 'pretrian'; did you mean 'pretrain'?"
    ]


def test_damaged_shards(synthetic: Path, tmp_path: Path, capfd) -> None:
    data, run = Path(shutil.copytree(synthetic, tmp_path / "data")), tmp_path / "run"
    shard = next(data.glob("train-audio_text-*.tar"))
    shard.write_bytes(shard.read_bytes()[:-512])
    assert shard.name in refused(pretrain(data, run), run, capfd)
    shard.unlink()
    assert shard.name in refused(pretrain(data, run), run, capfd)
    (data / "manifest.json").write_text("{")
    assert "manifest.json" in refused(pretrain(data, run), run, capfd)


@pytest.mark.parametrize("use", ["init", "run.resume"])
def test_damaged_checkpoint(synthetic: Path, tmp_path: Path, capfd, use: str) -> None:
    first, run = tmp_path / "first", tmp_path / "run"
    assert cli.main(pretrain(synthetic, first, "train.max_steps=1")) == 0
    capfd.readouterr()
    weights = next(first.glob("checkpoints/step_00000001/model-*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    words = pretrain(synthetic, run, f"{use}={first}")
    assert f"{weights} has changed since it was written (sha256)" in refused(words, run, capfd)
    weights.write_bytes(data[:-1])
    assert "missing or cut short" in refused(words, run, capfd)
    (weights.parent / "manifest.json").write_text("no json")
    assert "no readable manifest.json" in refused(words, run, capfd)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("head.label=shpae", "head.label = 'shpae': the data have the labels colour, shape"),
        ("head.modalities=[image, video]", "head.modalities names ['video']"),
        ("freeze=everything", "freeze = 'everything'"),
        ("head.type=clasification", "did you mean 'classification'?"),
        ("eval.tasks.shape.source=heldout", "did you mean 'held_out'?"),
        ("model.embed_dim=8", "projections.image.maps.linear.weight has shape"),
    ],
)
def test_bad_finetuning(
    synthetic: Path, tmp_path_factory, tmp_path: Path, capfd, override: str, message: str
) -> None:
    first, run = tmp_path_factory.getbasetemp() / "to-finetune", tmp_path / "run"
    if not first.exists():
        assert cli.main(pretrain(synthetic, first, "train.max_steps=1")) == 0
        capfd.readouterr()
    paths = [word for word in on(synthetic, run) if "tokenizer" not in word]
    words = ["finetune", FINETUNE, *paths, f"init={first}", override]
    assert message in refused(words, run, capfd)


def test_ranks_that_do_not_divide_the_streams(
    synthetic: Path, tmp_path: Path, capfd, monkeypatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    said = refused(pretrain(synthetic, tmp_path / "run"), tmp_path / "run", capfd)
    assert "8" in said
    assert "3" in said


def test_other_ranks_speak_only_if_the_first_has_not(
    synthetic: Path, tmp_path: Path, capfd, monkeypatch
) -> None:
    """The launcher ends them when the first rank has told and gone; so they wait first."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    waited: list[float] = []
    monkeypatch.setattr(command.time, "sleep", waited.append)
    said = refused(pretrain(synthetic, tmp_path / "run", "x=1"), tmp_path / "run", capfd)
    assert "unknown key x" in said
    assert waited == [command.WAIT_FOR_FIRST_RANK_S]


def said_by_mmfm(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if not line.startswith("step ")]


def test_one_line_from_three_ranks(synthetic: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = deepspeed(3, "mmfm", *pretrain(synthetic, run), check=False)
    assert done.returncode == 2
    assert len(said_by_mmfm(done.stderr)) == 1
    assert said_by_mmfm(done.stderr)[0].startswith("mmfm pretrain: error: ")
    assert "Traceback" not in done.stdout + done.stderr
    assert not run.exists()


def damage(data: Path, shards: str, ending: str, number: int, first: int = 0) -> list[str]:
    """Overwrite the start of `number` files with an ending in each shard; the samples' ids."""
    ids = []
    for shard in sorted(data.glob(f"{shards}.tar")):
        with tarfile.open(shard) as tar:
            members = [m for m in tar.getmembers() if m.name.endswith(ending)]
            members = members[first : first + number]
            for member in members:
                meta = tar.extractfile(member.name.replace(ending, ".json"))
                assert meta is not None
                ids.append(json.load(meta)["id"])
        with shard.open("r+b") as file:
            for member in members:
                file.seek(member.offset_data)
                file.write(bytes(min(64, member.size)))
    return ids


def test_bad_samples_are_replaced_and_listed(synthetic: Path, tmp_path: Path) -> None:
    data, run = Path(shutil.copytree(synthetic, tmp_path / "data")), tmp_path / "run"
    pictures = damage(data, "train-image_text-*", ".png", 3)
    sounds = damage(data, "train-audio_text-*", ".flac", 3)
    assert cli.main(pretrain(data, run, "data.max_bad_share=0.5")) == 0
    assert sorted(training(run)) == list(range(1, 9))
    rows = [json.loads(line) for line in (run / "quarantine.jsonl").read_text().splitlines()]
    assert {row["sample"] for row in rows} <= set(pictures + sounds)
    assert {row["sample"] for row in rows} & set(pictures)
    assert {row["sample"] for row in rows} & set(sounds)
    assert {row["rank"] for row in rows} == {0}
    assert all(row["reason"] and row["step"] < 9 for row in rows)


def test_too_many_bad_samples_stop_all_ranks(synthetic: Path, tmp_path: Path) -> None:
    data, run = Path(shutil.copytree(synthetic, tmp_path / "data")), tmp_path / "run"
    damage(data, "train-image_text-*", ".png", 20)
    words = pretrain(data, run, "data.max_bad_share=0.001")
    done = deepspeed(2, "mmfm", *words, check=False)
    assert done.returncode == 2
    assert len(said_by_mmfm(done.stderr)) == 1
    assert "samples were bad, more than data.max_bad_share = 0.001" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_an_error_on_one_rank_stops_all(synthetic: Path, tmp_path: Path) -> None:
    """Of the complete samples, those of stream 1 are all bad: the second rank alone meets that."""
    data, run = Path(shutil.copytree(synthetic, tmp_path / "data")), tmp_path / "run"
    damage(data, "train-audio_image_text-000000", ".png", 19, first=15)
    words = pretrain(data, run, "data.max_bad_share=1")
    done = deepspeed(2, "mmfm", *words, check=False)
    assert done.returncode == 2
    assert len(said_by_mmfm(done.stderr)) == 1
    assert "bad sample in 'audio+image+text', stream 1: all 17" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_nothing_to_replace_a_bad_sample_with(synthetic: Path, tmp_path: Path, capfd) -> None:
    data, run = Path(shutil.copytree(synthetic, tmp_path / "data")), tmp_path / "run"
    damage(data, "train-audio_image-0*", ".png", 1000)
    assert cli.main(pretrain(data, run, "data.max_bad_share=1")) == 2
    said = capfd.readouterr().err.splitlines()
    assert len([line for line in said if not line.startswith("step ")]) == 1
    assert "that could replace it are bad" in said[-1]
