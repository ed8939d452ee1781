"""The checkpoint with the best score is kept; a step is written once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mmfm import checkpoint
from mmfm.checkpoint import Checkpoint
from mmfm.config import ConfigError
from mmfm.train.optim import OptimConfig
from mmfm.train.saving import Saver, check_keep_best
from mmfm.train.trainer import KeepBest, TrainConfig


@pytest.fixture
def saver(tmp_path: Path, monkeypatch):
    """Makes a saver whose checkpoints hold nothing; `written` lists their steps."""
    written: list[int] = []
    state = "mmfm.train.saving.state"
    for name in ("weights_part", "optimizer_part"):
        monkeypatch.setattr(f"{state}.{name}", lambda engine: iter(()))
    for name in ("optimizer_scalars", "loss_scaler_state"):
        monkeypatch.setattr(f"{state}.{name}", lambda engine: {})

    def write_files(self: Saver, folder: Path) -> None:
        written.append(self.trainer.step_index)

    monkeypatch.setattr(Saver, "_write_files", write_files)

    def make(mode: str = "max", metric: str = "R@1", keep: int = 1) -> Saver:
        best = KeepBest(task="names", metric=metric, mode=mode)
        train = TrainConfig(keep_best=best, keep_checkpoints=keep)
        recipe = SimpleNamespace(train=train, optim=OptimConfig())
        run = SimpleNamespace(checkpoints=tmp_path, recipe=recipe)
        order = SimpleNamespace(fingerprint="f")
        pipeline = SimpleNamespace(config=SimpleNamespace(global_batch_size=32), order=order)
        one = Saver(run, SimpleNamespace(step_index=0, engine=None), pipeline, None)
        one.written = written
        return one

    return make


def evaluated(saver: Saver, step: int, value: float) -> None:
    saver.trainer.step_index = step
    names = [SimpleNamespace(name="R@1", value=value), SimpleNamespace(name="MRR", value=0.1)]
    saver.keep_best({"names": names, "other": []})


def test_a_step_is_written_once_with_its_samples(saver, tmp_path: Path) -> None:
    one = saver()
    one.trainer.step_index = 4
    one.save()
    one.save()
    assert one.written == [4]
    assert Checkpoint.open(tmp_path).samples_seen == 4 * 32


@pytest.mark.parametrize(
    ("mode", "values", "best"), [("max", [0.3, 0.5, 0.5, 0.4], 2), ("min", [3.0, 2.0, 1.0, 4.0], 3)]
)
def test_the_best_is_kept(saver, tmp_path: Path, mode: str, values, best: int) -> None:
    one = saver(mode)
    for step, value in enumerate(values, start=1):
        evaluated(one, step, value)
        one.save()
    about = checkpoint.best(tmp_path)
    assert (about["step"], about["value"]) == (best, values[best - 1])
    assert (about["task"], about["metric"]) == ("names", "R@1")
    assert Checkpoint.open(tmp_path / "best").step == best
    kept = sorted(p.name for p in tmp_path.glob("step_*"))
    assert kept == sorted({f"step_{best:08d}", "step_00000004"})


def test_a_score_that_is_no_number_is_not_the_best(saver, tmp_path: Path) -> None:
    evaluated(saver(), 1, float("nan"))
    assert checkpoint.best(tmp_path) is None


def test_a_resumed_run_knows_the_best_so_far_of_the_same_metric(saver, tmp_path: Path) -> None:
    evaluated(saver(), 1, 0.5)
    evaluated(saver(), 2, 0.4)
    assert checkpoint.best(tmp_path)["step"] == 1
    evaluated(saver(metric="MRR"), 3, 0.0)
    assert checkpoint.best(tmp_path)["step"] == 3


def test_a_metric_that_isn_t_there(saver) -> None:
    with pytest.raises(
        ConfigError, match=r"keep_best.metric = 'R@2' is no metric of eval.tasks.names; did you mea"
    ):
        evaluated(saver(metric="R@2"), 1, 0.5)


def test_a_task_that_isn_t_there() -> None:
    def recipe(task: str) -> SimpleNamespace:
        train = TrainConfig(keep_best=KeepBest(task=task, metric="R@1"))
        return SimpleNamespace(train=train, eval=SimpleNamespace(tasks={"names": None}))

    check_keep_best(recipe("names"))
    with pytest.raises(ConfigError, match=r"task = 'name' is none of eval.tasks; did you mean"):
        check_keep_best(recipe("name"))
