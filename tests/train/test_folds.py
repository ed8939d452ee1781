"""``mmfm finetune --folds``: a run for each fold, and what they say together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from mmfm import cli
from mmfm.config import ConfigError
from mmfm.heads import token_classification
from mmfm.train import folds
from mmfm.train.folds import summary, table
from mmfm.train.recipe import load_finetune
from tests.data.make_shards import write_set
from tests.data.test_subset import SIZES, samples
from tests.tiny_heads import accuracy, recipe
from tests.train.judging.test_best import BEST


def test_mean_and_interval() -> None:
    values = [0.5, 0.7, 0.6, 0.65]
    runs = {
        str(fold): [{"step": 4, "task": "t", "metric": "m", "value": value, "n": 9}]
        for fold, value in reversed(list(enumerate(values)))
    }
    (row,) = summary(runs)
    assert row["values"] == values
    assert row["mean"] == pytest.approx(np.mean(values))
    assert row["std"] == pytest.approx(np.std(values, ddof=1))
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert row["ci95"] == pytest.approx(list(expected))
    assert "t m " in table([row])[1]
    assert "0.6125   0.0854   0.4766 to 0.7484   0.5000 0.7000 0.6000 0.6500" in table([row])[1]
    many = {str(fold): [{**runs["0"][0], "value": float(fold)}] for fold in range(11)}
    (row,) = summary(dict(sorted(many.items())))
    assert row["values"] == list(range(11))
    (row,) = summary({"0": runs["0"]})
    assert (row["mean"], row["std"], row["ci95"]) == (0.5, None, None)


@pytest.fixture(scope="module")
def run(synthetic: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("folds")
    train = {"max_steps": 4, "eval_every": 2, "save_every": 4, **BEST}
    held = {"sources": {"late": {"path": "/nowhere"}}, "tasks": {}}
    path = recipe(folder, synthetic, train=train, test=held)
    assert cli.main(["finetune", path, "--folds", "3"]) == 0
    return folder / "run"


def test_every_sample_is_held_out_once(run: Path, synthetic: Path) -> None:
    held_out: list[int] = []
    for fold in range(3):
        config = load_finetune(run / f"fold-{fold}/config.yaml")
        train = config.data.open(config.data.sources["pictures"])
        out = config.data.open(config.eval.sources["held_out"])
        assert config.data.sources["pictures"].subset.label == "colour"
        inside = [
            np.concatenate([m.index(s).has_some() for s in range(len(m.shards))])
            for m in (train, out)
        ]
        assert not (inside[0] & inside[1]).any()
        held_out += np.flatnonzero(inside[1]).tolist()
    assert len(held_out) == len(set(held_out)) > 150


def test_what_they_say_together(run: Path) -> None:
    told = json.loads((run / "folds.json").read_text())
    (row,) = [r for r in told["results"] if r["metric"] == "accuracy"]
    # By keep_best, so not always those of the last step.
    best = [max(accuracy(run / f"fold-{n}")[step] for step in (2, 4)) for n in range(3)]
    assert row["values"] == best
    assert row["mean"] == pytest.approx(np.mean(best))


def test_the_scores_are_those_of_the_step_handed_out(synthetic: Path, tmp_path: Path) -> None:
    about = {"split": "eval", "task": "colour", "metric": "accuracy", "n": 9}
    rows = [{**about, "step": step, "value": value} for step, value in ((2, 0.7), (4, 0.6))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for train, step in (({}, 4), (BEST, 2)):
        config = load_finetune(recipe(tmp_path, synthetic, train=train))
        assert [row["step"] for row in folds.scores_of(tmp_path, config)] == [step]


def test_the_same_command_goes_on(run: Path, tmp_path: Path, capfd) -> None:
    copy = Path(shutil.copytree(run.parent, tmp_path / "copy"))
    path = str(copy / "recipe.yaml")
    words = ["finetune", path, "--folds", "3", f"run.dir={copy / 'run'}"]
    told = json.loads((copy / "run/folds.json").read_text())
    del told["runs"]["1"]
    (copy / "run/folds.json").write_text(json.dumps(told))
    shutil.rmtree(copy / "run/fold-1")
    shutil.rmtree(copy / "run/fold-2")
    assert cli.main(words) == 0
    assert not (copy / "run/fold-2").exists()
    assert accuracy(copy / "run/fold-1") == accuracy(run / "fold-1")
    capfd.readouterr()
    assert cli.main(words) == 0
    assert capfd.readouterr().out.startswith("over folds")
    assert cli.main([*words, "run.seed=0", "run.feature_cache=elsewhere"]) == 0
    for other in (["optim.lr=0.1"], ["run.seed=1"], ["--folds", "2"]):
        assert cli.main([*words, *other]) == 2
        assert "holds 3 folds of another recipe" in capfd.readouterr().err


def test_a_stopped_fold_is_not_counted(synthetic: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "run").mkdir()
    ends = iter(["done", "stopped"])
    monkeypatch.setattr("mmfm.train.command.train", lambda *_: next(ends))
    monkeypatch.setattr("mmfm.train.finetune.show_before_and_after", lambda _: None)
    monkeypatch.setattr(folds, "scores_of", lambda *_: [])
    assert cli.main(["finetune", recipe(tmp_path, synthetic), "--folds", "3"]) == 0
    assert list(json.loads((tmp_path / "run/folds.json").read_text())["runs"]) == ["0"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--folds", "1"], "--folds 1: at least 2 are needed"),
        (["--folds", "x"], "argument --folds: invalid int value: 'x'"),
        (["--folds", "2", "eval.tasks={}"], "none of eval.tasks reads the source held_out"),
        (["--folds", "2", "data.sources.pictures.subset.folds=3"], "that is what --folds sets"),
        (["--folds", "500"], "none is in the part 'held_out'"),
    ],
)
def test_what_is_refused(synthetic: Path, tmp_path: Path, capfd, words, message: str) -> None:
    (tmp_path / "run").mkdir()
    assert cli.main(["finetune", recipe(tmp_path, synthetic), *words]) == 2
    assert message in capfd.readouterr().err


def test_the_subset_of_a_source_is_cut_into_folds(synthetic: Path, tmp_path: Path) -> None:
    """By its own label, where it names one."""
    subset = "data.sources.pictures.subset={per_label: 3, label: shape, seed: 7}"
    config = load_finetune(recipe(tmp_path, synthetic), [subset])
    words = dict(word.split("=", 1) for word in folds.fold_overrides(config, 4, 1))
    own = json.loads(words["data.sources.pictures.subset"])
    assert (own["per_label"], own["label"], own["seed"]) == (3, "shape", 7)
    assert (own["folds"], own["fold"], own["part"]) == (4, 1, "train")
    held_out = json.loads(words["eval.sources.held_out"])
    assert held_out["subset"] == {**own, "part": "held_out"}
    assert (held_out["splits"], held_out["modalities"]) == (["train"], ["image"])


def test_tags_cut_no_folds(synthetic: Path, tmp_path: Path) -> None:
    """A text has many of them: its folds are cut as if it had no label."""
    config = load_finetune(recipe(tmp_path, synthetic))
    for head, label in (
        (config.head, "colour"),
        (token_classification.Config(label="colour"), None),
    ):
        config.head = head
        words = dict(word.split("=", 1) for word in folds.fold_overrides(config, 4, 1))
        assert json.loads(words["data.sources.pictures.subset"]).get("label") == label


def test_replay_is_refused(synthetic: Path, tmp_path: Path) -> None:
    """What it adds is not cut into folds."""
    config = load_finetune(recipe(tmp_path, synthetic))
    folds._check(config)
    config.replay = 0.2
    with pytest.raises(ConfigError, match=r"--folds: replay would train on .*: leave replay out"):
        folds._check(config)


def test_a_group_in_two_sources(tmp_path: Path, capfd) -> None:
    """The folds of each are of equal size, so one group may be in another fold there."""
    all_of = samples(SIZES)
    (tmp_path / "run").mkdir()
    for name, part in (("a", all_of), ("b", all_of[10:])):
        write_set(tmp_path / name, [part])
    place = {"splits": None, "path": str(tmp_path / "b")}
    path = recipe(tmp_path, tmp_path / "a")
    second = f"data.sources.more={json.dumps(place)}"
    assert cli.main(["finetune", path, second, "--folds", "2"]) == 2
    assert "data.sources.pictures trains on 'red-" in capfd.readouterr().err
    same = f"data.sources.more={json.dumps({**place, 'path': str(tmp_path / 'a')})}"
    config = load_finetune(path, [same])
    words = folds.fold_overrides(config, 2, 1)
    folds._check_apart(load_finetune(path, [same, *words]))
    assert [word.split("=")[0] for word in words[2:]] == [
        "data.sources.pictures.subset",
        "eval.sources.held_out",
        "eval.sources.held_out_pictures",
        "data.sources.more.subset",
        "eval.sources.held_out_more",
    ]
