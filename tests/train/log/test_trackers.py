"""Numbers reach the trackers that are named; one that isn't installed is an error with its cure."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mmfm.config import ConfigError
from mmfm.train.log import RunLog
from mmfm.train.log.trackers import find_trackers

RECIPE = {"run": {"dir": "runs/a"}, "optim": {"lr": 0.1}}


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (made,) = find_trackers(["tensorboard"])
    log = RunLog(tmp_path, True, 10, [made(tmp_path, RECIPE)])
    row = {"loss": 1.5, "samples_per_s": 1.0, "tokens_per_s": 1.0, "data_wait": 0.0}
    log.train({"step": 3, "batch_hash": "h", **row, "memory_gb": 1.0, "eta_s": 1.0})
    log.evaluation({"step": 3, "split": "eval", "task": "t", "metric": "R@1", "value": 0.5})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Scalars("train/loss")[0].step == 3
    assert events.Scalars("eval/t/R@1")[0].value == 0.5
    assert "train/batch_hash" not in events.Tags()["scalars"]


class Fake(ModuleType):
    """Records the calls of a library that isn't there; its functions return itself."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            return self

        return call

    def of(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [call[1:] for call in self.calls if call[0] == name]


@pytest.fixture
def fake(monkeypatch):
    def install(name: str) -> Fake:
        module = Fake(name)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delitem(sys.modules, f"mmfm.train.log.trackers.{name}", raising=False)
        return module

    yield install
    for name in ("wandb", "mlflow"):
        sys.modules.pop(f"mmfm.train.log.trackers.{name}", None)


def test_wandb(fake, tmp_path: Path) -> None:
    wandb = fake("wandb")
    (made,) = find_trackers(["wandb"])
    for _ in range(2):
        one = made(tmp_path, RECIPE)
        one.scalars(3, {"train/loss": 1.5})
        one.close()
    first, second = (kwargs for _, kwargs in wandb.of("init"))
    assert first["id"] == second["id"] != ""
    assert first["resume"] == "allow"
    assert first["config"] == RECIPE
    assert wandb.of("log")[0] == (({"step": 3, "train/loss": 1.5},), {})
    assert len(wandb.of("finish")) == 2


def test_mlflow(fake, tmp_path: Path) -> None:
    mlflow = fake("mlflow")
    mlflow.__dict__["info"] = mlflow
    mlflow.__dict__["run_id"] = "abc"
    (made,) = find_trackers(["mlflow"])
    for _ in range(2):
        one = made(tmp_path, RECIPE)
        one.scalars(3, {"eval/t/R@1": 1.5})
        one.close()
    runs = [kwargs for _, kwargs in mlflow.of("start_run")]
    assert runs == [
        {"run_id": None, "run_name": tmp_path.name},
        {"run_id": "abc", "run_name": None},
    ]
    assert mlflow.of("log_dict") == [((RECIPE, "recipe.json"), {})]
    assert mlflow.of("log_metrics")[0] == (({"eval/t/R_1": 1.5},), {"step": 3})
    assert len(mlflow.of("end_run")) == 2


def test_one_of_your_own(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "my_tools").mkdir()
    (tmp_path / "my_tools/tracker.py").write_text("class Tracker:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert [made.__name__ for made in find_trackers(["my_tools.tracker"])] == ["Tracker"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", "no 'tensorbord'; did you mean 'tensorboard'"),
        ("nowhere.tracker", r"nowhere.tracker can't be imported \(No module named 'nowhere'\)$"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_trackers([name])


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_what_isn_t_installed_says_how_to_get_it(name: str, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"mmfm.train.log.trackers.{name}", raising=False)
    with pytest.raises(ConfigError, match=rf"{name} can't be imported .*mmfm\[{name}\]"):
        find_trackers([name])
