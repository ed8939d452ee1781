"""The masked task on a tiny model: losses sample by sample, baselines by brute force, contexts."""

from __future__ import annotations

import math
import os
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmfm
from mmfm import cli, distributed
from mmfm.config import ConfigError, from_dict
from mmfm.data.evaluation import EvaluationSource
from mmfm.data.manifest import Manifest
from mmfm.data.sequential import SequentialData
from mmfm.predictor import Predictor
from mmfm.train.engine import end_process_group
from mmfm.train.log import read_metrics
from mmfm_eval.suite import SuiteConfig
from mmfm_eval.tasks.base import Score
from tests.eval.tiny_checkpoint import make_checkpoint, make_data
from tests.tiny_runs import IN_PARTS, pretrain

OBJECTIVES = ("masked_text", "masked_image", "masked_audio")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked")
    make_data(folder / "data")
    make_checkpoint(folder / "run")
    return folder


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return mmfm.load(folder / "run", device="cpu")


def source(folder: Path, predictor: Predictor, split: str, lacking: str = "") -> EvaluationSource:
    specs = {m: spec for m, spec in predictor.specs.items() if m != lacking}
    manifest = Manifest.open(str(folder / "data"), [split])
    return EvaluationSource(split, manifest, specs, batch_size=7)


def sources(folder: Path, predictor: Predictor, lacking: str = "") -> dict[str, Any]:
    held_out = source(folder, predictor, "val", lacking)
    return {"train": source(folder, predictor, "train"), "val": held_out}


def task(**settings: Any) -> Any:
    raw = {"type": "masked", "source": "val", "train": "train", **settings}
    suite = {"name": "s", "sources": {"x": {"path": "x"}}, "tasks": {"t": raw}}
    return from_dict(SuiteConfig, suite).tasks["t"].build()


def scores(predictor: Predictor, data: dict[str, Any], **settings: Any) -> dict[str, Score]:
    return {s.name: s for s in task(**settings)(predictor, data)}


@pytest.fixture(scope="module")
def everything(folder: Path, predictor: Predictor) -> dict[str, Score]:
    return scores(predictor, sources(folder, predictor))


def one_by_one(folder: Path, predictor: Predictor, split: str) -> list[Any]:
    """Prepared batches of one sample each."""
    manifest = Manifest.open(str(folder / "data"), [split])
    data = SequentialData([(split, manifest)], predictor.specs, batch_size=1)
    return [predictor.task.prepare(batch) for batch in data]


def test_the_loss_is_the_objectives_own(folder: Path, predictor: Predictor, everything) -> None:
    total, count = Counter(), Counter()
    for batch in one_by_one(folder, predictor, "val"):
        with torch.no_grad():
            losses = predictor.task(batch).losses
        for name in OBJECTIVES:
            value, positions = losses[f"{name}/{name}"]
            total[name] += value.item()
            count[name] += int(positions)
    for name in OBJECTIVES:
        score = everything[f"{name}_loss"]
        assert score.n == count[name] > 0
        assert score.value == pytest.approx(total[name] / count[name], rel=1e-5)
        assert score.ci95 is not None
        assert score.ci95[0] < score.value < score.ci95[1]


def test_word_frequencies_by_brute_force(folder: Path, predictor: Predictor, everything) -> None:
    special = set(predictor.model.encoder("text").tokenizer.special_ids)
    vocab = predictor.specs["text"]["vocab_size"]
    seen: Counter[int] = Counter()
    for batch in one_by_one(folder, predictor, "train"):
        if "text" in batch:
            seen.update(i for i in batch["text"][batch["text_mask"]].tolist() if i not in special)
    total = sum(seen.values()) + vocab
    hidden = [
        word
        for batch in one_by_one(folder, predictor, "val")
        if "text" in batch
        for word in batch["text"][batch["masks"]["text"]].tolist()
    ]
    want = -sum(math.log((seen[word] + 1) / total) for word in hidden) / len(hidden)
    assert everything["masked_text_loss"].baseline == pytest.approx(want, rel=1e-6)
    assert everything["masked_text_loss"].baseline_name == "word frequencies"
    assert everything["masked_text_loss"].chance == pytest.approx(math.log(vocab))
    accuracy = everything["masked_text_accuracy"]
    most = max(sorted(seen), key=lambda word: seen[word])
    assert accuracy.baseline == pytest.approx(hidden.count(most) / len(hidden))
    assert accuracy.chance == pytest.approx(1 / vocab)


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_the_mean_patch_by_brute_force(
    folder: Path, predictor: Predictor, everything, modality: str
) -> None:
    encoder = predictor.model.encoder(modality)

    def patches(split: str) -> Any:
        """(place, patch, masked) of every real patch, normalised with numpy."""
        for batch in one_by_one(folder, predictor, split):
            if modality not in batch:
                continue
            inputs, valid = batch[modality], batch.get(f"{modality}_mask")
            real = encoder.token_valid(inputs, valid)[0]
            masked = batch["masks"][modality][0]
            for place, patch in enumerate(encoder.patchify(inputs, valid)[0].double().numpy()):
                if real[place]:
                    deviation = (patch.var(ddof=1) + 1e-6) ** 0.5
                    yield place, (patch - patch.mean()) / deviation, bool(masked[place])

    by_place: dict[int, list[Any]] = {}
    for place, patch, _ in patches("train"):
        by_place.setdefault(place, []).append(patch)
    mean = {place: np.mean(found, axis=0) for place, found in by_place.items()}
    errors = [
        ((patch - mean.get(place, 0)) ** 2).mean()
        for place, patch, masked in patches("val")
        if masked
    ]
    score = everything[f"masked_{modality}_loss"]
    assert score.n == len(errors)
    assert score.baseline == pytest.approx(np.mean(errors), rel=1e-5)
    assert score.baseline_name == "mean patch"
    assert score.chance is None
    assert f"masked_{modality}_accuracy" not in everything


@pytest.mark.parametrize("lacking", ["image", "audio"])
def test_without_a_modality_is_as_on_data_that_lack_it(
    folder: Path, predictor: Predictor, everything, lacking: str
) -> None:
    data = sources(folder, predictor, lacking)
    poorer = scores(predictor, data, objectives=["masked_text"])
    for kind in ("loss", "accuracy"):
        got = everything[f"masked_text_without_{lacking}_{kind}"]
        want = poorer[f"masked_text_{kind}"]
        assert got.value == pytest.approx(want.value, rel=1e-5)
        assert (got.n, got.baseline) == (want.n, pytest.approx(want.baseline))
    # One other modality is left: without it the text is alone.
    assert set(poorer) == {
        f"masked_text_{name}"
        for name in ("loss", "accuracy", "alone_loss", "alone_accuracy", "alone_added_loss")
    }
    alone = poorer["masked_text_alone_loss"].value
    assert everything["masked_text_alone_loss"].value == pytest.approx(alone, rel=1e-5)


def test_what_a_modality_adds_is_the_paired_difference(everything) -> None:
    for name in OBJECTIVES:
        others = [m for m in ("image", "text", "audio") if name != f"masked_{m}"]
        for label in (*(f"without_{m}" for m in others), "alone"):
            added = everything[f"{name}_{label}_added_loss"]
            difference = everything[f"{name}_{label}_loss"].value - everything[f"{name}_loss"].value
            assert added.value == pytest.approx(difference, abs=1e-6)
            assert added.value != 0
            assert added.baseline is None
            low, high = added.ci95
            wide = everything[f"{name}_{label}_loss"].ci95
            assert high - low < wide[1] - wide[0]
    assert len(everything) == 3 * (1 + 3 * 2) + 4  # the accuracies are those of words


def test_named_contexts_and_objectives(folder: Path, predictor: Predictor) -> None:
    data = sources(folder, predictor)
    some = scores(predictor, data, objectives=["masked_image"], without=[["text"]])
    assert set(some) == {
        "masked_image_loss", "masked_image_without_text_loss",
        "masked_image_without_text_added_loss",
    }  # fmt: skip
    evaluator = task(objectives=["masked_image"], without=[["text"]])
    found = evaluator.encode(predictor, data)
    assert evaluator.details(found)["masked_image"]["contexts"] == ["all", "without_text"]


def test_refusals(folder: Path, predictor: Predictor) -> None:
    data = sources(folder, predictor)
    with pytest.raises(
        ConfigError, match="no masked objective 'masked_txt'; it has masked_audio, "
    ):
        scores(predictor, data, objectives=["masked_txt"])
    with pytest.raises(ConfigError, match="without: the checkpoint has no modality 'smell'"):
        scores(predictor, data, without=[["smell"]])
    with pytest.raises(ConfigError, match="no source 'art'; valid: train, val"):
        scores(predictor, data, train="art")
    with pytest.raises(ConfigError, match="objectives is empty"):
        task(objectives=[])
    with pytest.raises(ConfigError, match="without holds an empty set"):
        task(without=[[]])
    lacking = sources(folder, predictor, "audio")
    with pytest.raises(ValueError, match="'val' has nothing that masked_audio could mask"):
        scores(predictor, lacking, objectives=["masked_audio"])
    head = mmfm.load(make_checkpoint(folder / "head", head=True), device="cpu")
    with pytest.raises(ConfigError, match="needs a pretrained checkpoint with a masked objective"):
        scores(head, data)


def worker(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.update(WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    distributed.init()
    predictor = mmfm.load(Path(folder, "run"), device="cpu")
    found = scores(predictor, sources(Path(folder), predictor), without=[["image"]])
    Path(folder, f"rank{rank}").write_text(repr([list(s) for s in found.values()]))
    distributed.shutdown()


def test_two_ranks_give_the_scores_of_one(folder: Path, everything) -> None:
    """The sizes of the groups of samples are odd, so that some come twice."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(worker, (port, str(folder)), nprocs=2)
    for rank in range(2):
        theirs = eval((folder / f"rank{rank}").read_text())
        assert len(theirs) == 3 + 2 * 2 + 2
        for two in theirs:
            one = everything[two[0]]
            assert two[1] == pytest.approx(one[1], abs=2e-6), one[0]
            assert two[2] == one[2]
            assert two[5] == (None if one[5] is None else pytest.approx(one[5], rel=1e-6))


def test_in_training_under_zero_3_it_scores_as_afterwards(synthetic: Path, tmp_path: Path) -> None:
    """There the objectives' own parameters are in parts, and only a forward gathers them."""
    evaluated = "{type: mmfm_eval.tasks.masked, source: held_out, train: held_out}"
    more = [
        "train.max_steps=1",
        "train.zero_stage=3",
        IN_PARTS,
        f"eval.tasks={{masked: {evaluated}}}",
    ]
    try:
        assert cli.main(pretrain(synthetic, tmp_path / "run", *more)) == 0
    finally:
        end_process_group()
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    logged = {row["metric"]: row["value"] for row in rows if row.get("task") == "masked"}
    predictor = mmfm.load(tmp_path / "run", device="cpu")
    held_out = Manifest.open(str(synthetic), ["val"])
    data = {"val": EvaluationSource("val", held_out, predictor.specs, batch_size=64)}
    found = scores(predictor, data, train="val")
    assert set(logged) == set(found)
    for name, score in found.items():
        assert logged[name] == pytest.approx(score.value, rel=1e-5, abs=1e-6), name
