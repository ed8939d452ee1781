"""The command ``mmfm pretrain`` from data to a checkpoint that can be used."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path

import pytest
import torch
from deepspeed.accelerator import get_accelerator

import mmfm
from mmfm import cli
from mmfm.config import to_dict
from mmfm.data.reader import SampleReader
from mmfm.train.log import read_metrics
from mmfm.train.pretrain import prepare
from mmfm.train.recipe import load_pretrain
from mmfm_prep.cli import main as data
from tests.launch import deepspeed
from tests.tiny_runs import TINY, manifest, on, pretrain, training

MASKED = ("masked_text", "masked_image", "masked_audio")
WEIGHTS = dict.fromkeys(("contrastive", "matching", "caption", *MASKED), 1.0) | {"sigmoid": 0.1}
FIELDS = {
    *("step", "samples_seen", "split", "loss", "logit_scale", "batch_hash", "lr", "grad_norm"),
    *("samples_per_s", "tokens_per_s", "data_wait", "memory_gb"),
    *(f"{name}_loss" for name in WEIGHTS),
}
FILES = {
    *("config.yaml", "environment.json", "metrics.jsonl", "log.txt", "tensorboard", "checkpoints"),
    "report.html",
}


@pytest.fixture(scope="module")
def run(synthetic, tmp_path_factory) -> Path:
    """A short run with an evaluation, in this process."""
    folder = tmp_path_factory.mktemp("pretrain") / "run"
    assert cli.main(arguments(synthetic, folder)) == 0
    return folder


def arguments(data: Path, folder: Path) -> list[str]:
    best = "train.keep_best={task: image_to_text, metric: image_to_text_R@1}"
    more = ["train.max_steps=22", "train.save_every=20", "train.log_norms=true", best]
    words = pretrain(data, folder, *more)
    words.remove("eval.tasks={}")
    words[words.index("train.eval_every=100")] = "train.eval_every=22"
    return words


def test_folder_of_a_run(run: Path) -> None:
    assert {p.name for p in run.iterdir()} == FILES
    steps = sorted(p.name for p in (run / "checkpoints").iterdir())
    assert steps == ["best", "latest", "step_00000020", "step_00000022"]
    assert json.loads((run / "checkpoints/best").read_text())["step"] == 22
    assert (run / "checkpoints/latest").read_text().strip() == "step_00000022"
    assert list((run / "tensorboard").glob("events.*"))
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0] or (
        environment["packages"]["torch"] == torch.__version__
    )


def test_config_is_complete_and_makes_the_same_run(synthetic: Path, run: Path) -> None:
    again = to_dict(load_pretrain(run / "config.yaml"))
    assert again == to_dict(prepare(*split(arguments(synthetic, run))).recipe)
    assert again["optim"]["betas"] == [0.9, 0.98]
    stored = run / "checkpoints/step_00000022/config.yaml"
    assert stored.read_text().strip() == (run / "config.yaml").read_text().strip()


def split(words: list[str]) -> tuple[str, list[str]]:
    return words[1], words[2:]


def test_metrics(run: Path) -> None:
    rows = training(run)
    assert sorted(rows) == list(range(1, 23))
    for step, row in rows.items():
        assert set(row) >= FIELDS
        assert row["samples_seen"] == row["samples/synthetic"] == 32 * step
        assert all(math.isfinite(v) for v in row.values() if isinstance(v, float))
        assert 0 <= row["data_wait"] <= 1
        assert row["samples_per_s"] > 0
        weighted = sum(weight * row[f"{name}_loss"] for name, weight in WEIGHTS.items())
        assert row["loss"] == pytest.approx(weighted, rel=1e-6)
        parts = [v for k, v in row.items() if k.startswith("grad_norm/")]
        assert row["grad_norm"] == pytest.approx(math.hypot(*parts), rel=1e-5)
        assert {k for k in row if k.startswith("rms/")} == {"rms/image", "rms/text", "rms/audio"}
    assert "grad_norm/model.encoders.audio" in rows[1]
    assert rows[22]["loss"] < 0.96 * rows[1]["loss"]
    assert rows[1]["lr"] == pytest.approx(2e-3 / 20)
    assert rows[20]["lr"] == pytest.approx(2e-3)
    assert rows[22]["lr"] == pytest.approx(0, abs=1e-12)


def test_scores_go_to_metrics_and_in_short_to_people(run: Path) -> None:
    rows = [row for row in read_metrics(run / "metrics.jsonl") if "metric" in row]
    assert {row["step"] for row in rows} == {22}
    assert {row["task"] for row in rows} == {"image_to_text", "audio_to_image"}
    names = {row["metric"] for row in rows if row["task"] == "image_to_text"}
    assert {"image_to_text_R@1", "text_to_image_MRR", "text_to_image_median_rank"} <= names
    assert all(row["n"] > 0 and row["chance"] > 0 and row["split"] == "eval" for row in rows)
    said = (run / "log.txt").read_text().splitlines()
    number = r"\d\.\d{4} \(chance \d\.\d{4}\)"
    assert len(said) == 5
    assert "checkpoints/best: step_00000022, image_to_text image_to_text_R@1" in said[-1]
    for line in said[:4]:
        assert re.fullmatch(rf"step 22  \S+  \S+_to_\S+  R@1 {number}  R@5 {number}  n \d+", line)


def test_batch_hash_is_that_of_the_order(synthetic: Path, run: Path) -> None:
    """Found again from the order and the shards alone."""
    setup = prepare(*split(arguments(synthetic, run)))
    order = setup.pipeline(1).order
    sources = setup.recipe.data.open_sources()
    reader = SampleReader([(name, found) for name, found, _ in sources])
    for step in (0, 7):
        draws = [d for stream in range(8) for d in order.stream_slots(step, stream)]
        ids = sorted(reader.read(d.source, d.shard, d.index).sample_id for d in draws)
        digest = hashlib.sha1("\n".join(ids).encode()).hexdigest()
        assert training(run)[step + 1]["batch_hash"] == digest


def test_checkpoint_can_be_used(synthetic: Path, run: Path) -> None:
    assert manifest(run / "checkpoints/step_00000022")["samples_seen"] == 22 * 32
    predictor = mmfm.load(run)
    found = predictor.encode(text=["a red circle", "two small blue stars"])["text"]
    assert found.shape == (2, 32)
    assert torch.allclose(found.norm(dim=-1), torch.ones(2), atol=1e-5)
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_standard_error_is_quiet(synthetic: Path, tmp_path: Path, capfd) -> None:
    """Without a terminal: the first steps, then every twentieth, and nothing of the libraries."""
    run = tmp_path / "run"
    more = ["train.max_steps=21", "train.precision=bf16"]
    assert cli.main(pretrain(synthetic, run, *more)) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert [line.split("  ")[0] for line in err.splitlines()] == [
        "step 1",
        "step 2",
        "step 3",
        "step 20",
    ]


def test_an_interrupt_is_told_in_one_line(
    synthetic: Path, tmp_path: Path, capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmfm.train.command.train", interrupted)
    assert cli.main(pretrain(synthetic, tmp_path / "run")) == 130
    assert capfd.readouterr().err == (
        "mmfm pretrain: stopped; the same command goes on from the newest checkpoint, if there is "
        "one\n"
    )


def test_dry_run_shows_the_plan_and_writes_nothing(synthetic: Path, tmp_path: Path, capfd) -> None:
    run = tmp_path / "run"
    assert cli.main([*pretrain(synthetic, run), "--dry-run"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "batch     32 = 1 ranks × 1 micro-batches × 32" in out
    for name in ("audio+image+text", "image+text", "audio+text", "audio+image"):
        assert f"synthetic:{name} " in out
    assert re.search(r"synthetic +\d+ +[\d,]+  \d+\.\d\d$", out, re.M)
    assert not run.exists()
    few = [
        "train.max_steps=2",
        "optim.warmup_steps=1",
        "data.global_batch_size=8",
        "data.allow_rare_strata=true",
    ]
    assert cli.main([*pretrain(synthetic, run, *few), "--dry-run"]) == 0
    out = capfd.readouterr().out
    assert re.search(r"synthetic:audio\+text .* rare$", out, re.M)
    assert re.search(
        r"^warning   synthetic:audio\+text: \d+ of \d+ samples \(.*never seen in 2", out, re.M
    )
    assert "no sample" not in out
    silent = "data.sources.synthetic.modalities=[image,text]"
    assert cli.main([*pretrain(synthetic, run, *few, silent), "--dry-run"]) == 0
    out = capfd.readouterr().out
    assert "warning   no sample in data.sources has audio, which 'contrastive' reads\n" in out
    assert "which 'sigmoid' reads" not in out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.type=torch.optim.Nothing", "optim.type: there is no 'torch.optim.Nothing'"),
        ("optim.type=torch.optim.Adafactor", "does not treat each weight by itself"),
        ("deepspeed.zero_optimization={overlap: true}", "overlap Extra inputs are not permitted"),
        ("train.precision=fp16", "train.precision = fp16: this device has no fp16"),
    ],
)
def test_what_deepspeed_and_the_optimiser_refuse_is_known_before_the_start(
    synthetic: Path, tmp_path: Path, capfd, monkeypatch, override: str, message: str
) -> None:
    monkeypatch.setattr(type(get_accelerator()), "is_fp16_supported", lambda self: False)
    assert cli.main([*pretrain(synthetic, tmp_path / "run", override), "--dry-run"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_masked_objectives_need_a_masked_view(synthetic: Path, tmp_path: Path, capfd) -> None:
    off = "data.sources.synthetic.masked_view=false"
    assert cli.main([*pretrain(synthetic, tmp_path / "run", off), "--dry-run"]) == 2
    message = capfd.readouterr().err
    assert (
        "objectives mask text, image, audio, but every one of data.sources has masked_view"
        in message
    )


def test_init_starts_from_other_weights(synthetic: Path, run: Path, tmp_path: Path) -> None:
    words = pretrain(synthetic, tmp_path / "next", f"init={run}", "train.max_steps=1")
    assert cli.main(words) == 0
    rows = training(tmp_path / "next")
    assert rows[1]["masked_text_loss"] < training(run)[1]["masked_text_loss"]


def test_launcher_gives_the_same_run_on_two_ranks(
    synthetic: Path, run: Path, tmp_path: Path
) -> None:
    words = arguments(synthetic, tmp_path / "two")
    done = deepspeed(2, "mmfm", *words)
    got, want = training(tmp_path / "two"), training(run)
    assert sorted(got) == sorted(want)
    for step in want:
        assert got[step]["batch_hash"] == want[step]["batch_hash"]
    for step in range(1, 6):
        assert got[step]["loss"] == pytest.approx(want[step]["loss"], rel=1e-5)
    assert got[22]["loss"] == pytest.approx(want[22]["loss"], rel=1e-3)
    assert {p.name for p in (tmp_path / "two").iterdir()} == FILES
    said = [line for line in done.stderr.splitlines() if "eta" not in line]
    assert said == (tmp_path / "two/log.txt").read_text().splitlines()


@pytest.mark.slow
def test_smallest_run_learns(tmp_path: Path, capfd) -> None:
    """The tiny recipes of pretraining and fine-tuning as they are, on unseen combinations."""
    folder = tmp_path / "synthetic"
    assert data(["make", "synthetic", str(folder)]) == 0
    run = tmp_path / "tiny"
    assert cli.main(["pretrain", TINY, *on(folder, run)]) == 0
    rows = training(run)
    first = sum(rows[step]["loss"] for step in range(1, 6)) / 5
    last = sum(rows[step]["loss"] for step in range(196, 201)) / 5
    assert last < 0.75 * first
    scores = {r["metric"]: r for r in read_metrics(run / "metrics.jsonl") if "metric" in r}
    for name in ("image_to_text", "text_to_image", "image_to_audio", "audio_to_image"):
        score = scores[f"{name}_R@5"]
        assert score["ci95"][0] > 1.5 * score["chance"], name

    shape = tmp_path / "shape"
    assert cli.main(finetune(folder, run, shape)) == 0
    rows = [r for r in read_metrics(shape / "metrics.jsonl") if r.get("metric") == "accuracy"]
    assert [r["step"] for r in rows] == [0, 300]
    assert rows[1]["value"] > 2 * rows[1]["chance"]
    assert f"before {rows[0]['value']:.4f}  after {rows[1]['value']:.4f}" in capfd.readouterr().out

    names = tmp_path / "names"
    assert cli.main(finetune(folder, run, names, *RETRIEVAL)) == 0
    found = [r for r in read_metrics(names / "metrics.jsonl") if "metric" in r]
    before = {r["metric"]: r["value"] for r in found if r["step"] == 0}
    after = {r["metric"]: r["value"] for r in found if r["step"] == 100}
    for name in ("image_to_text_R@1", "text_to_image_R@1"):
        assert before[name] == scores[name]["value"]  # the same model on the same pictures
        assert after[name] >= before[name]


RETRIEVAL = (
    "head={type: retrieval, pairs: [[image, text]]}",
    "eval.tasks={names: {type: retrieval, query: {source: held_out, modality: image}, "
    "gallery: {source: held_out, modality: text}}}",
    "train.max_steps=100",
    "optim.lr=1e-3",
)


def finetune(data: Path, init: Path, run: Path, *more: str) -> list[str]:
    paths = [word for word in on(data, run) if "tokenizer" not in word]
    return ["finetune", TINY.replace("pretrain", "finetune"), *paths, f"init={init}", *more]
