"""The test section is looked at once, with the checkpoint that the run hands out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mmfm
from mmfm import cli
from mmfm.data.manifest import Manifest
from mmfm.data.sequential import SequentialData
from mmfm.train.judging import final_test
from tests.launch import on_ranks
from tests.tiny_heads import COLOUR, accuracy, recipe
from tests.tiny_runs import IN_PARTS
from tests.train.judging.test_best import BEST


def test_section(data: Path, **source) -> dict:
    place = {"path": str(data), "splits": ["val"], "modalities": ["image"], **source}
    return {"sources": {"held_out": place}, "tasks": {"final": COLOUR}}


test_section.__test__ = False  # type: ignore[attr-defined]


def told(run: Path) -> dict:
    found = json.loads((run / "test.json").read_text())
    found["accuracy"] = next(r for r in found["results"] if r["metric"] == "accuracy")
    return found


@pytest.fixture(scope="module")
def run(synthetic: Path, tmp_path_factory) -> Path:
    """Its best step is not the last one: the learning rate is far too high."""
    folder = tmp_path_factory.mktemp("once")
    train = {"max_steps": 6, "eval_every": 2, "save_every": 6, **BEST}
    path = recipe(folder, synthetic, train=train, test=test_section(synthetic))
    assert cli.main(["finetune", path, "optim.lr=0.3"]) == 0
    return folder / "run"


def test_the_best_checkpoint_is_tested(run: Path, synthetic: Path) -> None:
    scores = accuracy(run)
    best = max((2, 4, 6), key=lambda step: scores[step])
    assert scores[best] != scores[6]
    found = told(run)
    assert (found["checkpoint"], found["weights"]) == (f"step_{best:08d}", "model")
    row = found["accuracy"]
    assert row["task"] == "final"
    assert row["value"] == scores[best]
    assert {"n", "ci95", "chance", "baseline"} <= row.keys()
    assert accuracy(run, "test") == {best: row["value"]}
    predictor = mmfm.load(run / "checkpoints/best")
    manifest = Manifest.open(synthetic, ["val"], ["image"])
    data = SequentialData(
        [("held_out", manifest)], predictor.specs, batch_size=64, label=predictor.label
    )
    logits = predictor.logits_batches(data)
    assert row["value"] == pytest.approx(float((logits.logits.argmax(1) == logits.labels).mean()))


def test_it_is_not_looked_at_again(run: Path, monkeypatch, capfd) -> None:
    monkeypatch.setattr(final_test, "load", lambda *_, **__: pytest.fail("it looked again"))
    before, words = told(run), ["finetune", str(run.parent / "recipe.yaml"), "optim.lr=0.3"]
    assert cli.main(words) == 0
    said = capfd.readouterr().err
    assert f"test was looked at already, with {before['checkpoint']}" in said
    assert f"test  final  accuracy {before['accuracy']['value']:.4f} (chance 0.1667)" in said
    assert "which was not tested" not in said
    assert cli.main([*words, "train.keep_best=null"]) == 0
    assert "hands out step_00000006, which was not tested" in capfd.readouterr().err
    assert told(run) == before
    assert len(accuracy(run, "test")) == 1


def test_the_report_tells_both(run: Path) -> None:
    page = (run / "report.html").read_text()
    before, test = page.split('<section id="test">')
    assert ">colour <" in before
    assert ">final <" in test.split('<section id="curves">')[0]
    assert f"with {told(run)['checkpoint']}" in test
    kept = json.loads((run / "evaluation/test/final.json").read_text())
    assert kept["details"]["per_class"]
    assert kept["mistakes"] == []


def test_no_look_before_the_end(synthetic: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(final_test, "load", lambda *_, **__: pytest.fail("it looked"))
    path = recipe(tmp_path, synthetic, test=test_section(synthetic))
    assert cli.main(["finetune", path, "--dry-run"]) == 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"splits": ["train"]}, "test.sources.held_out shares samples with data.sources.pictures"),
        ({"splits": None}, "shares samples with data.sources.pictures"),
        ({"splits": ["vall"]}, "test.sources.held_out: "),
        ({"subset": {"folds": 2}}, ""),
    ],
)
def test_sources(synthetic: Path, tmp_path: Path, capfd, source, message: str) -> None:
    path = recipe(tmp_path, synthetic, test=test_section(synthetic, **source))
    assert cli.main(["finetune", path, "--dry-run"]) == (2 if message else 0)
    assert message in capfd.readouterr().err


def test_all_that_is_trained_on_counts(synthetic: Path, tmp_path: Path, capfd) -> None:
    more = json.dumps({"path": str(synthetic), "splits": ["val"], "modalities": ["image"]})
    path = recipe(tmp_path, synthetic, test=test_section(synthetic))
    assert cli.main(["finetune", path, "--dry-run", f"data.sources.more={more}"]) == 2
    assert "shares samples with data.sources.more" in capfd.readouterr().err


def test_what_only_teaches_a_task_may_be_trained_on(synthetic: Path, tmp_path: Path, capfd) -> None:
    place = {"path": str(synthetic), "modalities": ["image"]}
    near = {"type": "knn", "label": "colour", "modality": "image"}
    near |= {"train": "known", "test": "held_out"}
    sources = {"known": {**place, "splits": ["train"]}, "held_out": {**place, "splits": ["val"]}}
    path = recipe(tmp_path, synthetic, test={"sources": sources, "tasks": {"near": near}})
    assert cli.main(["finetune", path, "--dry-run"]) == 0
    capfd.readouterr()
    query, gallery = ({"source": name, "modality": "image"} for name in ("held_out", "known"))
    same = {"type": "retrieval", "query": query, "gallery": gallery}
    for judged in ({**near, "test": "known"}, {"type": "classification", "source": "known"}, same):
        tasks = {"near": near, "judged": judged}
        path = recipe(tmp_path, synthetic, test={"sources": sources, "tasks": tasks})
        assert cli.main(["finetune", path, "--dry-run"]) == 2
        assert "test.sources.known shares samples with" in capfd.readouterr().err


def test_the_average_is_tested_where_it_was_judged(synthetic: Path, tmp_path: Path) -> None:
    optim = {"lr": 0.01, "ema": {"decay": 0.5, "evaluate": True}}
    train = {"max_steps": 2, "eval_every": 2, "save_every": 2}
    section = test_section(synthetic)
    path = recipe(tmp_path, synthetic, optim=optim, train=train, test=section)
    assert cli.main(["finetune", path]) == 0
    found = told(tmp_path / "run")
    assert found["weights"] == "ema"
    assert found["accuracy"]["value"] == accuracy(tmp_path / "run")[2]


def test_a_task_that_does_not_fit(synthetic: Path, tmp_path: Path, capfd) -> None:
    section = test_section(synthetic)
    section["tasks"]["final"] = {"type": "classification", "source": "elsewhere"}
    assert cli.main(["finetune", recipe(tmp_path, synthetic, test=section), "--dry-run"]) == 2
    assert "test.tasks.final: " in capfd.readouterr().err


def test_two_ranks_with_partitioned_weights(synthetic: Path, tmp_path: Path) -> None:
    """Of a subset, stopped early: the same scores as one rank's."""
    found = []
    for ranks in (1, 2):
        (folder := tmp_path / str(ranks)).mkdir()
        train = {"max_steps": 30, "eval_every": 2, "save_every": 30, "zero_stage": 3, "patience": 1}
        path = recipe(folder, synthetic, train={**train, **BEST}, test=test_section(synthetic))
        subset = "data.sources.pictures.subset={per_label: 8, label: colour}"
        words = ["finetune", path, subset, IN_PARTS]
        if ranks == 1:
            assert cli.main(words) == 0
        else:
            on_ranks(2, "mmfm", *words)
        scores = accuracy(folder / "run")
        found.append((told(folder / "run")["checkpoint"], told(folder / "run")["accuracy"], scores))
    assert found[0] == found[1]
    assert max(scores) < 30
