"""A run that was stopped, killed or moved to other ranks goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from mmfm import checkpoint, cli
from mmfm.checkpoint import Checkpoint
from mmfm.train.log import read_metrics
from mmfm.train.resume import resume_point
from tests import launch
from tests.tiny_runs import IN_PARTS, exact, manifest, pretrain, training

STEPS = range(1, 9)
EMA = "optim.ema={decay: 0.9, evaluate: true}"
BF16 = ("train.precision=bf16", "train.zero_stage=1", EMA)
THAW = ("train.zero_stage=2", EMA, "optim.freeze={model.encoders.text: 4, model.fusion: 2}")


def on_two_ranks(folder: Path, *commands: list[str]) -> None:
    launch.on_ranks(2, "tests.train.run_worker", write_list(folder, *commands))


def write_list(folder: Path, *commands: list[str]) -> str:
    path = folder / "commands.json"
    path.write_text(json.dumps(commands))
    return str(path)


@pytest.fixture(scope="module")
def runs(synthetic, tmp_path_factory) -> Path:
    """Uninterrupted runs on two ranks, and some that go on from their checkpoint of step 3."""
    folder = tmp_path_factory.mktemp("runs")
    on_two_ranks(
        folder,
        pretrain(synthetic, folder / "whole", "train.zero_stage=2", EMA),
        pretrain(synthetic, folder / "bf16", *BF16),
        pretrain(
            synthetic,
            folder / "same",
            "train.zero_stage=2",
            EMA,
            f"run.resume={folder}/whole/checkpoints/step_00000003",
        ),
        pretrain(
            synthetic,
            folder / "bf16-on",
            *BF16,
            f"run.resume={folder}/bf16/checkpoints/step_00000003",
        ),
        pretrain(synthetic, folder / "thaw", *THAW),
        pretrain(
            synthetic,
            folder / "thaw-on",
            *THAW,
            f"run.resume={folder}/thaw/checkpoints/step_00000003",
        ),
        # Last: from here on DeepSpeed has put its own linear layer in place of torch's.
        pretrain(
            synthetic,
            folder / "stage3",
            "train.zero_stage=3",
            EMA,
            IN_PARTS,
            f"run.resume={folder}/whole/checkpoints/step_00000003",
        ),
    )
    return folder


def test_runs_are_whole(runs: Path) -> None:
    for name in ("whole", "bf16"):
        rows = training(runs / name)
        assert sorted(rows) == list(STEPS)
        assert rows[8]["loss"] < rows[1]["loss"]
        assert len({row["batch_hash"] for row in rows.values()}) == 8
        steps = sorted(p.name for p in (runs / name / "checkpoints").glob("step_*"))
        assert steps == ["step_00000003", "step_00000006", "step_00000008"]


@pytest.mark.parametrize(
    ("name", "before"), [("same", "whole"), ("bf16-on", "bf16"), ("thaw-on", "thaw")]
)
def test_continued_run_equals_the_uninterrupted_one_bit_for_bit(
    runs: Path, name: str, before: str
) -> None:
    want = exact(runs / before)
    assert exact(runs / name) == {step: want[step] for step in range(4, 9)}
    assert_same_tensors(runs / name, runs / before)


def assert_same_tensors(a: Path, b: Path) -> None:
    """The last checkpoints of two runs on equally many ranks hold the same bytes."""
    first, second = (manifest(run / "checkpoints/step_00000008")["files"] for run in (a, b))
    tensors = [name for name in first if name.endswith(".safetensors")]
    assert len(tensors) == 6  # weights, optimiser and average of two ranks
    for name in tensors:
        assert first[name]["sha256"] == second[name]["sha256"], name


def assert_close(run: Path, want: Path, steps: range) -> None:
    """Same samples; losses within 1e-5, as sums are taken in another order."""
    got, expected = training(run), training(want)
    assert sorted(got) == list(steps)
    for step in steps:
        assert got[step]["batch_hash"] == expected[step]["batch_hash"]
        assert got[step]["samples_seen"] == 32 * step
        losses = [key for key in got[step] if key.endswith("loss")]
        assert len(losses) > 8
        for key in losses:
            assert got[step][key] == pytest.approx(expected[step][key], rel=1e-5), (step, key)


def test_another_stage_on_the_same_ranks(runs: Path) -> None:
    assert_close(runs / "stage3", runs / "whole", range(4, 9))


@pytest.mark.slow
def test_two_ranks_to_one_and_back(runs: Path, synthetic: Path, tmp_path: Path) -> None:
    """2 ranks at stage 3 ▶ 1 rank at stage 1 ▶ 2 ranks at stages 0 and 2."""
    one = pretrain(
        synthetic,
        tmp_path / "one",
        "train.zero_stage=1",
        f"run.resume={runs}/stage3/checkpoints/step_00000006",
        EMA,
    )
    one[one.index("train.save_every=3")] = "train.save_every=1"
    assert cli.main(one) == 0
    assert_close(tmp_path / "one", runs / "whole", range(7, 9))
    back = f"run.resume={tmp_path}/one/checkpoints/step_00000007"
    on_two_ranks(
        tmp_path,
        pretrain(synthetic, tmp_path / "zero", "train.zero_stage=0", EMA, back),
        pretrain(synthetic, tmp_path / "two", "train.zero_stage=2", EMA, back),
    )
    assert_close(tmp_path / "zero", runs / "whole", range(8, 9))
    assert_close(tmp_path / "two", runs / "whole", range(8, 9))


def test_one_rank_from_two(runs: Path, synthetic: Path, tmp_path: Path) -> None:
    source = f"run.resume={runs}/whole/checkpoints/step_00000003"
    assert cli.main(pretrain(synthetic, tmp_path / "one", "train.zero_stage=0", EMA, source)) == 0
    assert_close(tmp_path / "one", runs / "whole", range(4, 9))
    two, one = (
        Checkpoint.open(run / "checkpoints/step_00000008").tensors("ema")
        for run in (runs / "whole", tmp_path / "one")
    )
    assert set(one) == set(two)
    for name, average in two.items():
        assert (one[name] - average).norm() <= 1e-4 * average.norm(), name


def test_a_run_that_thaws_goes_on_by_itself(runs: Path) -> None:
    """Its metrics say where; what is frozen does not move and has no average of its own."""
    rows = read_metrics(runs / "thaw/metrics.jsonl")
    assert [row["step"] for row in rows if row.get("event") == "resume"] == [2, 4]
    assert sorted(training(runs / "thaw")) == list(STEPS)
    at = {step: Checkpoint.open(runs / f"thaw/checkpoints/step_{step:08d}") for step in (2, 4, 8)}
    weights = {step: found.tensors("model") for step, found in at.items()}
    text, fusion = "model.encoders.text.", "model.fusion."
    for step, frozen in ((2, (text, fusion)), (4, (text,))):
        assert not [name for name in at[step].tensors("ema") if name.startswith(frozen)]
    for name in weights[2]:
        if name.startswith(text):
            assert weights[2][name].equal(weights[4][name]), name
    moved = f"{text}transformer.blocks.0.attention.out.weight"
    assert not weights[8][moved].equal(weights[4][moved])
    assert at[8].manifest["optimizer_scalars"] == {"step": 8, "2/step": 6, "4/step": 4}


def start(
    commands: str, slow_checkpoints: float = 0.0, slow_steps: float = 0.0
) -> subprocess.Popen[str]:
    """The launcher in a process group of its own, so that all of it can be killed at once."""
    command, environment = launch.command(2, "tests.train.run_worker", commands)
    environment["SLOW_CHECKPOINTS"] = str(slow_checkpoints)
    environment["SLOW_STEPS"] = str(slow_steps)
    return subprocess.Popen(
        command,
        cwd=launch.ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_when(process: subprocess.Popen[str], ready, what: str) -> None:
    """SIGKILL every process of the run as soon as `ready()`."""
    wait_until(process, ready, what)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def wait_until(process: subprocess.Popen[str], ready, what: str) -> None:
    deadline = time.monotonic() + 240
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"no {what}: {process.communicate()[0][-4000:]}")
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_killed_run_equals_the_uninterrupted_one(
    runs: Path, synthetic: Path, tmp_path: Path, workers: int
) -> None:
    """Killed in the first steps, while a checkpoint is written, and after one; then to the end."""
    run = tmp_path / "killed"
    arguments = pretrain(synthetic, run, "train.zero_stage=2", EMA, f"data.workers={workers}")
    commands = write_list(tmp_path, arguments)
    partial = run / "checkpoints/.step_00000003.partial"

    kill_when(start(commands), lambda: 2 in training(run), "step 2")
    assert 3 not in training(run) or not (run / "checkpoints/latest").exists()
    process = start(commands, slow_checkpoints=30)
    kill_when(process, lambda: list(partial.glob("optimizer-*-of-00002*")), "half a checkpoint")
    assert not list((run / "checkpoints").glob("step_*"))
    kill_when(start(commands), lambda: 5 in training(run), "step 5")

    on_two_ranks(tmp_path, arguments)
    assert exact(run) == exact(runs / "whole")
    assert_same_tensors(run, runs / "whole")
    assert not list((run / "checkpoints").glob(".*"))
    resumes = [row["step"] for row in read_metrics(run / "metrics.jsonl") if "event" in row]
    assert resumes[0] == 3


def ranks_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The ranks' own processes, not their data workers."""
    launcher = psutil.Process(process.pid).children()[0]
    return launcher.children()


def to_all(process: subprocess.Popen[str]) -> None:
    """As a scheduler does it: to every process, data workers and launcher too."""
    os.killpg(process.pid, signal.SIGTERM)


def to_one_rank(process: subprocess.Popen[str]) -> None:
    ranks_of(process)[1].send_signal(signal.SIGUSR1)


@pytest.mark.parametrize("send", [to_all, pytest.param(to_one_rank, marks=pytest.mark.slow)])
def test_a_run_that_is_asked_to_stop_saves_and_goes_on_bit_for_bit(
    runs: Path, synthetic: Path, tmp_path: Path, send
) -> None:
    run = tmp_path / "stopped"
    arguments = pretrain(synthetic, run, "train.zero_stage=2", EMA, "data.workers=1")
    commands = write_list(tmp_path, arguments)
    process = start(commands, slow_steps=0.3)
    wait_until(process, lambda: 4 in training(run), "step 4")
    ranks = ranks_of(process)
    send(process)
    said = process.communicate(timeout=200)[0]
    psutil.wait_procs(ranks, timeout=200)
    assert "Traceback" not in said, said[-4000:]
    step = max(training(run))
    assert 4 <= step < 8
    assert (run / "checkpoints/latest").read_text().strip() == f"step_{step:08d}"
    assert (
        f"stopped after step {step}; the same command goes on from there"
        in (run / "log.txt").read_text()
    )
    if send is to_one_rank:
        assert process.returncode == 0

    on_two_ranks(tmp_path, arguments)
    assert exact(run) == exact(runs / "whole")
    assert_same_tensors(run, runs / "whole")
    rows = read_metrics(run / "metrics.jsonl")
    events = [(row["event"], row["step"]) for row in rows if "event" in row]
    assert events == [("stop", step), ("resume", step)]


def test_a_finished_run_says_so_and_changes_nothing(
    runs: Path, synthetic: Path, tmp_path: Path, capfd
) -> None:
    run = Path(shutil.copytree(runs / "whole", tmp_path / "done"))
    before = exact(run)
    assert cli.main(pretrain(synthetic, run, "train.zero_stage=2")) == 0
    assert "done already (8 steps)" in capfd.readouterr().err
    assert exact(run) == before
    assert_same_tensors(run, runs / "whole")


OTHER_ORDERS = [
    "run.seed=1",
    "data.streams=4",
    "data.global_batch_size=64",
    "data.sources.synthetic.splits=[val]",
    "data.sources.synthetic.splits=[train,val]",
    "data.block_shards=2",
]


@pytest.mark.parametrize("change", OTHER_ORDERS)
@pytest.mark.parametrize("how", ["auto", "path"])
def test_checkpoint_of_another_order_is_refused(
    runs: Path, synthetic: Path, tmp_path: Path, capfd, change: str, how: str
) -> None:
    run = Path(shutil.copytree(runs / "whole", tmp_path / "run"))
    target = tmp_path / "new" if how == "path" else run
    before = contents(run)
    extra = [f"run.resume={run}"] if how == "path" else []
    assert cli.main(pretrain(synthetic, target, change, *extra)) == 2
    message = capfd.readouterr().err
    assert len(message.splitlines()) == 1
    key = change.partition("=")[0]
    assert f"was trained on another order of data: {key} is " in message
    assert "; " not in message.partition("order of data")[2]
    assert contents(run) == before
    assert not (tmp_path / "new").exists()


def test_no_run_goes_on_from_averages(runs: Path, synthetic: Path, tmp_path: Path, capfd) -> None:
    words = pretrain(synthetic, tmp_path / "new", EMA, f"run.resume={runs}/whole/ema")
    assert cli.main(words) == 2
    message = capfd.readouterr().err
    assert len(message.splitlines()) == 1
    assert "whole/ema: a run goes on from the weights themselves" in message
    assert not (tmp_path / "new").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "model.embed_dim=24",
            "projections.image.maps.linear.weight has shape [32, 16], the model's is [24",
        ),
        ("objectives.masked_image=null", "is of another model"),
        ("run.resume=never", "is in use, and run.resume is never"),
        ("eval.sources.held_out.path=nowhere", "eval.sources.held_out"),
    ],
)
def test_refused_in_a_used_folder(
    runs: Path, synthetic: Path, tmp_path: Path, capfd, change: str, message: str
) -> None:
    run = Path(shutil.copytree(runs / "whole", tmp_path / "run"))
    before = contents(run)
    assert cli.main(pretrain(synthetic, run, change)) == 2
    said = capfd.readouterr().err
    assert len(said.splitlines()) == 1
    assert message in said
    assert contents(run) == before


def test_data_that_changed_under_the_run_stop_it(
    runs: Path, synthetic: Path, tmp_path: Path, capfd
) -> None:
    """A step that ran before on other samples is an error: metrics.jsonl would tell of two runs."""
    run = Path(shutil.copytree(runs / "whole", tmp_path / "run"))
    metrics = run / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    for row in rows:
        row["batch_hash"] = "0" * 40
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.rmtree(run / "checkpoints/step_00000008")
    shutil.rmtree(run / "checkpoints/step_00000006")
    assert cli.main(pretrain(synthetic, run, "train.zero_stage=2")) == 2
    said = capfd.readouterr().err.splitlines()
    assert said[-1].startswith("mmfm pretrain: error: step 4 was run on other samples before")


def test_which_checkpoint_a_run_continues_from(tmp_path: Path) -> None:
    """A path outside the run counts until the run has its own; one of its own counts as named."""

    def point(how: str) -> str | None:
        run = SimpleNamespace(dir=str(tmp_path / "run"), resume=how)
        found = resume_point(SimpleNamespace(run=run))
        return None if found is None else f"{found.path.parent.parent.name}/{found.step}"

    def write(run: str, *steps: int) -> None:
        for step in steps:
            folder = tmp_path / run / "checkpoints"
            checkpoint.write(folder, step, step, {}, lambda hidden: None, {})

    write("other", 1, 2)
    assert point("auto") is None
    assert point(str(tmp_path / "other")) == "other/2"
    assert point(str(tmp_path / "other/checkpoints/step_00000001")) == "other/1"
    write("run", 3, 4)
    assert point("auto") == point(str(tmp_path / "other")) == "run/4"
    assert point(str(tmp_path / "run/checkpoints/step_00000003")) == "run/3"
    with pytest.raises(ValueError, match="is in use"):
        point("never")
    newest = tmp_path / "run/checkpoints/step_00000004"
    (newest / "manifest.json").write_text('{"format": 0}')
    with pytest.raises(ValueError, match=r"step_00000004 .*: run.resume=\S+/step_00000003 goes on"):
        point("auto")
    shutil.rmtree(newest.with_name("step_00000003"))
    with pytest.raises(ValueError, match=r"this version reads \d+$"):
        point("auto")
