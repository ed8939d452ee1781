"""The evaluation task ``caption`` on a checkpoint: what it reads, writes and compares with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmfm.config import ConfigError, from_dict
from mmfm.data.evaluation import EvaluationSource
from mmfm.data.manifest import Manifest
from mmfm.data.subset import SubsetConfig, subset_of
from mmfm.predictor import Predictor, load
from mmfm.predictor.captions import Writing, write_captions
from mmfm_eval.suite import SuiteConfig
from mmfm_eval.tasks.caption import Found
from tests import tiny
from tests.eval.tiny_checkpoint import make_checkpoint, make_data


def build(tokenizer: str, objective: bool) -> Predictor:
    """With a caption objective, or with a head of the same weights that writes with two beams."""
    from mmfm.predictor import build as build_task

    recipe = tiny.task_settings(tokenizer)
    small = {"type": "caption", "sources": ["image", "audio"], "width": 16, "layers": 1, "heads": 2}
    del recipe["objectives"]
    recipe |= {"objectives": {"c": small}} if objective else {"head": {**small, "beams": 2}}
    torch.manual_seed(0)
    task = build_task(recipe)
    for parameter in task.parameters():
        torch.nn.init.normal_(parameter, std=max(parameter.shape[-1], 16) ** -0.5)
    return Predictor(task.eval())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("caption") / "data")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    return tiny.make_tokenizer(tmp_path_factory.mktemp("caption") / "tokenizer")


def source(folder: Path, predictor: Predictor, split: str = "val") -> EvaluationSource:
    manifest = Manifest.open(str(folder), [split])
    return EvaluationSource(split, manifest, predictor.specs, batch_size=7)


def evaluator(**settings: Any) -> Any:
    suite = {
        "name": "s",
        "sources": {"val": {"path": "x"}, "train": {"path": "x"}},
        "tasks": {"t": {"type": "caption", "source": "val", **settings}},
    }
    return from_dict(SuiteConfig, suite).tasks["t"].build()


def test_head_and_objective_write_alike(folder: Path, tokenizer: str) -> None:
    """The head with its own settings, which the task may replace."""
    head, objective = build(tokenizer, False), build(tokenizer, True)
    data = source(folder, head)
    default = write_captions(head, data, Writing())
    assert default.texts == write_captions(objective, data, Writing(beams=2)).texts
    assert default.texts != write_captions(objective, data, Writing()).texts
    assert write_captions(head, data, Writing(beams=1)).texts == (
        write_captions(objective, data, Writing()).texts
    )
    some = [r for s in data.manifest.shards for r in s.modality_sets.items()]
    described = sum(n for names, n in some if {"image", "audio"} & set(names.split("+")))
    assert len(default.texts) == described == len(set(default.row_ids))
    short = write_captions(head, data, Writing(max_length=3))
    assert 0 < sum(map(len, short.texts)) < 0.7 * sum(map(len, default.texts))


def test_references_are_all_texts_of_a_sample(folder: Path, tokenizer: str) -> None:
    predictor = build(tokenizer, False)
    data = {s: source(folder, predictor, s) for s in ("val", "train")}
    task = evaluator(train="train")
    (found,) = task.encode(predictor, data).values()
    assert isinstance(found, Found)
    sizes = {len(r) for r in found.references}
    assert max(sizes) > 1
    manifest = data["val"].manifest
    both = sum(
        n
        for s in manifest.shards
        for names, n in s.modality_sets.items()
        if "text" in names.split("+") and {"image", "audio"} & set(names.split("+"))
    )
    assert len(found.texts) == len(found.references) == len(found.groups) == both
    scores = {s.name: s for s in task(predictor, data)}
    assert set(scores) == {"BLEU-4", "ROUGE-L", "CIDEr-D", "exact_match"}
    for score in scores.values():
        assert score.n == both
        assert score.ci95 is not None
        assert score.baseline_name == "the most frequent text"
        assert score.chance is not None
    assert scores["ROUGE-L"].chance > 0.2
    details = task.details({task.readings[0]: found})
    assert details["rows"] == both
    assert {"id", "text", "references"} == set(details["examples"][0])


def test_references_are_those_of_the_subset(folder: Path, tokenizer: str) -> None:
    predictor = build(tokenizer, False)
    data = source(folder, predictor)
    part = subset_of(data.manifest, SubsetConfig(folds=3, part="held_out"))
    held_out = EvaluationSource("val", part, predictor.specs, batch_size=7)
    (found,) = evaluator().encode(predictor, {"val": held_out}).values()
    (whole,) = evaluator().encode(predictor, {"val": data}).values()
    assert 0 < len(found.texts) < len(whole.texts)
    references = dict(zip(whole.ids, whole.references, strict=True))
    assert found.references == [references[i] for i in found.ids]


def found(texts: list[str], references: list[list[str]], frequent: str = "a dot") -> Found:
    ids = [str(i) for i in range(len(texts))]
    groups = np.arange(len(texts))
    return Found(texts, references, ids, groups, tuple(frequent.split()))


def test_scores_by_hand() -> None:
    """Chance: in one of two orders each sample has its own text."""
    task = evaluator()
    references = [["a red dot", "a red spot"], ["the blue box"]]
    result = found(["A red spot.", "a box"], references, "a red dot")
    scores = {s.name: s for s in task.score({task.readings[0]: result})}
    assert scores["exact_match"].value == 0.5
    assert scores["ROUGE-L"].value == pytest.approx((1 + 2 / 5) / 2)
    assert scores["exact_match"].baseline == 0.5
    assert scores["ROUGE-L"].baseline == 0.5
    assert scores["exact_match"].chance in [k / 10 for k in range(11)]
    plain = evaluator(baseline="none")
    assert all(s.baseline is None for s in plain.score({plain.readings[0]: result}))
    with pytest.raises(ValueError, match="source 'val': no sample has both a text"):
        list(task.score({task.readings[0]: found([], [])}))


def test_a_checkpoint_that_writes_nothing_is_refused(tmp_path: Path) -> None:
    checkpoint = load(make_checkpoint(tmp_path / "c", head=True))
    with pytest.raises(ConfigError, match="the checkpoint writes no texts: pretrain it with"):
        evaluator().check_model(checkpoint)
    with pytest.raises(ConfigError, match="beams = 0 must be at least 1"):
        evaluator(beams=0)


def test_too_long_texts_are_refused(tokenizer: str) -> None:
    with pytest.raises(ValueError, match="max_length = 99 must be above 1 and at most 8"):
        evaluator(max_length=99).check_model(build(tokenizer, True))
