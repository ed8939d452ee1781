"""A trained model for use: from a run of two real steps, however its inputs are given."""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import mmfm
from mmfm.checkpoint import Checkpoint, CheckpointError
from mmfm.config import ConfigError
from mmfm.data.manifest import Manifest
from mmfm.data.reader import SampleReader
from mmfm.data.sequential import SequentialData
from mmfm.data.transforms.base import BadSample
from mmfm.files import sha256
from mmfm.predictor import Predictor, untrained
from mmfm.train.engine import end_process_group
from mmfm.train.log import read_metrics
from mmfm.train.pretrain import main as pretrain
from mmfm.types import IGNORE_INDEX, Label
from mmfm_eval.cli import main as evaluate
from mmfm_prep.cli import main as data_command
from tests.eval.tiny_checkpoint import SHAPES, make_checkpoint

ROOT = Path(__file__).parent.parent
MODALITIES = ("image", "text", "audio")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("predictor") / "data"
    options = ["train_samples=64", "val_samples=24"]
    assert data_command(["make", "synthetic", str(folder), *options]) == 0
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory) -> Path:
    """A run's folder: two steps of the smallest recipe, the text encoder frozen."""
    folder = tmp_path_factory.mktemp("predictor") / "run"
    before = dict(os.environ)
    small = [f"model.encoders.{m}.layers=1" for m in MODALITIES]
    code = pretrain(
        [
            str(ROOT / "configs/pretrain/tiny.yaml"),
            f"run.dir={folder}",
            f"data.sources.synthetic.path={data}",
            f"model.encoders.text.tokenizer={data / 'tokenizer'}",
            "model.encoders.text.frozen=true",
            *small,
            f"eval.sources.held_out.path={data}",
            "eval.tasks.audio_to_image=null",
            "train.max_steps=2",
            "train.zero_stage=0",
            "optim.lr=1e-2",
            "optim.warmup_steps=0",
            "optim.ema={decay: 0.5, evaluate: true}",
        ]
    )
    end_process_group()
    os.environ.clear()
    os.environ.update(before)
    assert code == 0
    return folder


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return mmfm.load(run)


@pytest.fixture(scope="module")
def samples(data: Path) -> list[Any]:
    """The raw samples of the split that was held out."""
    manifest = Manifest.open(str(data), ["val"])
    reader = SampleReader([("s", manifest)])
    found = []
    for number, shard in enumerate(manifest.shards):
        found += [reader.read(0, number, i) for i in range(shard.samples)]
    return found


def sequential(predictor: Predictor, data: Path, **more: Any) -> SequentialData:
    manifest = Manifest.open(str(data), ["val"])
    return SequentialData([("s", manifest)], predictor.specs, batch_size=7, **more)


def close(one: Any, other: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other), rtol=0, atol=2e-5)


def test_the_weights_are_those_of_the_checkpoint(run: Path, predictor: Predictor) -> None:
    stored = Checkpoint.open(run).tensors("model")
    weights = predictor.task.state_dict()
    assert set(stored) == set(weights)
    assert all(torch.equal(stored[n], w) for n, w in weights.items())
    assert not predictor.task.training
    assert predictor.head is None
    assert predictor.label is None
    assert set(predictor.specs) == set(MODALITIES)
    assert Checkpoint.open(run).step == 2


def test_the_average_of_the_weights_by_name(run: Path, predictor: Predictor) -> None:
    """Of what trains; what doesn't is its own average."""
    stored, averages = (Checkpoint.open(run).tensors(kind) for kind in ("model", "ema"))
    found = mmfm.load(run / "ema").task.state_dict()
    assert set(stored) > set(averages)
    assert not any(name.startswith("model.encoders.text.") for name in averages)
    for name, weight in found.items():
        assert torch.equal(weight, averages.get(name, stored[name])), name
    one = "model.projections.image.maps.linear.weight"
    assert not torch.equal(found[one], stored[one])


def test_mmfm_eval_judges_the_average_as_the_training_did(
    data: Path, run: Path, tmp_path: Path, capsys
) -> None:
    def scores(path: Path) -> dict[str, float]:
        suite = tmp_path / "suite.yaml"
        names = {m: {"source": "unseen", "modality": m} for m in ("image", "text")}
        task = {"type": "retrieval", "query": names["image"], "gallery": names["text"]}
        sources = {"unseen": {"path": str(data), "splits": ["val"]}}
        suite.write_text(json.dumps({"name": "s", "sources": sources, "tasks": {"t": task}}))
        out = tmp_path / path.name
        assert evaluate([str(path), str(suite), "--out", str(out)]) == 0
        results = json.loads((out / "results.json").read_text())["results"]
        return {r["metric"]: r["value"] for r in results}

    rows = [r for r in read_metrics(run / "metrics.jsonl") if "metric" in r]
    trained = {r["metric"]: r["value"] for r in rows}
    assert scores(run / "ema") == pytest.approx(trained, rel=1e-6)
    assert scores(run) != pytest.approx(trained, rel=1e-6)


def test_nothing_but_the_folder_is_needed(run: Path, predictor: Predictor, tmp_path: Path) -> None:
    """Moved elsewhere, the tokenizer that the recipe names gone."""
    moved = tmp_path / "model"
    shutil.copytree(Checkpoint.open(run).path, moved)
    config = moved / "config.yaml"
    assert str(predictor.config["model"]["encoders"]["text"]["tokenizer"]) in config.read_text()
    away = config.read_text().replace("tokenizer: ", "tokenizer: /gone")
    config.write_text(away)
    about = json.loads((moved / "manifest.json").read_text())
    about["files"]["config.yaml"] = {"bytes": len(away.encode()), "sha256": sha256(config)}
    (moved / "manifest.json").write_text(json.dumps(about))
    texts = ["a small red circle", "drei große blaue Ringe"]
    got = mmfm.load(moved).encode(text=texts)["text"]
    assert torch.equal(got, predictor.encode(text=texts)["text"])


def picture_of(samples: list[Any]) -> bytes:
    return next(s.files["png"] for s in samples if "png" in s.files)


def test_a_picture_may_be_given_in_any_form(predictor: Predictor, samples, tmp_path: Path) -> None:
    content = picture_of(samples)
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    opened = Image.open(io.BytesIO(content))
    forms = [content, path, str(path), opened, np.asarray(opened.convert("RGB"))]
    got = predictor.encode(image=forms)["image"]
    assert got.shape == (5, 32)
    close(got, got[:1].expand(5, -1))
    close(got.norm(dim=1), torch.ones(5))
    other = predictor.encode(image=[Image.new("RGB", (40, 30), "red")])["image"]
    assert (other - got[0]).abs().max() > 1e-3


def test_a_sound_may_be_given_in_any_form(predictor: Predictor, samples, tmp_path: Path) -> None:
    ending, content = next(
        (e, c) for s in samples for e, c in s.files.items() if e in ("flac", "wav", "ogg")
    )
    path = tmp_path / f"sound.{ending}"
    path.write_bytes(content)
    wave, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    assert rate == predictor.specs["audio"]["sample_rate"]
    got = predictor.encode(audio=[content, path, str(path), wave])["audio"]
    close(got, got[:1].expand(4, -1))
    assert (predictor.encode(audio=[wave[::-1].copy()])["audio"] - got[0]).abs().max() > 1e-3


def test_a_text_may_be_given_as_string_or_bytes(predictor: Predictor) -> None:
    got = predictor.encode(text=["ein grüner Stern", "ein grüner Stern".encode(), "two red rings"])
    close(got["text"][0], got["text"][1])
    assert (got["text"][0] - got["text"][2]).abs().max() > 1e-3


def test_modalities_and_batches_do_not_touch_each_other(predictor: Predictor, samples) -> None:
    texts = ["a red dot", "two small blue squares and more words than the other", "ring"] * 3
    whole = predictor.encode(text=texts, image=[picture_of(samples)])
    assert set(whole) == {"text", "image"}
    close(whole["text"], predictor.encode(2, text=texts)["text"])  # also other padding
    for i, text in enumerate(texts):
        close(whole["text"][i], predictor.encode(text=[text])["text"][0])
    assert predictor.encode(text=[]) == {}


def test_what_can_not_be_encoded(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no modality 'video'; the model has image, text, audio"):
        predictor.encode(video=[b""])
    for one in ("a red dot", b"", tmp_path):
        with pytest.raises(ValueError, match="text must be a list of items, not"):
            predictor.encode(text=one)
    with pytest.raises(BadSample, match=r"^image 0: image unreadable"):
        predictor.encode(image=[b"no picture"])
    with pytest.raises(ValueError, match=r"^image 0: .*gone\.png can't be read"):
        predictor.encode(image=[tmp_path / "gone.png"])
    with pytest.raises(ValueError, match=r"^text 0: a text must be a string"):
        predictor.encode(text=[3])
    with pytest.raises(BadSample, match=r"^text 2 \(''\): text empty"):
        predictor.encode(2, text=["a red dot", "a ring", ""])
    (tmp_path / "torn.png").write_bytes(b"no picture")
    for torn in (tmp_path / "torn.png", str(tmp_path / "torn.png")):
        with pytest.raises(BadSample, match=r"^image 0 \(.*torn\.png'?\): image unreadable"):
            predictor.encode(image=[torn])
    with pytest.raises(ValueError, match="text 1 is None: leave it out of the list"):
        predictor.encode(text=["a red dot", None, "a ring"])


def test_encode_batches_equals_encode(predictor: Predictor, data: Path, samples) -> None:
    encoded = predictor.encode_batches(sequential(predictor, data), MODALITIES, pooled=True)
    files = {"image": ("png",), "audio": ("flac", "wav", "ogg")}
    for m in MODALITIES:
        contents = {}
        for sample in samples:
            if m == "text" and "texts" in sample.meta:
                texts = sample.meta["texts"]
                contents[sample.sample_id] = texts["en"] if isinstance(texts, dict) else texts[0]
            for ending in files.get(m, ()):
                if ending in sample.files:
                    contents[sample.sample_id] = sample.files[ending]
        contents = {k: v[0] if isinstance(v, list) else v for k, v in contents.items()}
        assert encoded.row_ids[m] == sorted(contents)  # each once, in the order of the ids
        want = predictor.encode(**{m: [contents[i] for i in encoded.row_ids[m]]})[m]
        close(encoded.embedding[m], want)
        assert len(encoded.groups[m]) == len(encoded.labels[m]) == len(want)
        assert (encoded.labels[m] == IGNORE_INDEX).all()
        assert encoded.pooled[m].shape == (len(want), 64)
    assert len(encoded.row_ids["image"]) < len(samples)  # some lack it


def test_labels_groups_and_fused_rows(predictor: Predictor, data: Path, samples) -> None:
    batches = sequential(predictor, data, label=Label("shape", SHAPES))
    encoded = predictor.encode_batches(batches, ["image", "audio"], fused=True, pooled=True)
    assert set(encoded.embedding) == {"image", "audio", "fused"}
    ids = set(encoded.row_ids["image"]) | set(encoded.row_ids["audio"])
    assert encoded.row_ids["fused"] == sorted(ids)
    by_id = {s.sample_id: s.meta for s in samples}
    for row, label in zip(encoded.row_ids["fused"], encoded.labels["fused"], strict=True):
        assert SHAPES[label] == by_id[row]["labels"]["shape"]
    for m in ("image", "audio", "fused"):
        same = {}
        for row, group in zip(encoded.row_ids[m], encoded.groups[m].tolist(), strict=True):
            assert same.setdefault(by_id[row]["group"], group) == group
        assert len(set(same.values())) == len(same)
    norms = np.linalg.norm(encoded.embedding["fused"], axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-5)
    # A sample that has only its picture is fused of that alone.
    batch = next(iter(sequential(predictor, data)))
    features = predictor.model.encode(batch, ["image", "audio"])
    fused = predictor.model.fuse(features, ["image", "audio"])
    for i, sample in enumerate(fused.rows["fused"].tolist()):
        at = encoded.row_ids["fused"].index(batch["sample_id"][sample])
        close(encoded.pooled["fused"][at], fused.fused_pooled[i].detach())


def test_repeated_samples_come_once(predictor: Predictor, data: Path) -> None:
    batches = list(sequential(predictor, data))
    once = predictor.encode_batches(batches, ["text"])
    twice = predictor.encode_batches([*batches, *reversed(batches)], ["text"])
    assert twice.row_ids == once.row_ids
    assert np.array_equal(twice.embedding["text"], once.embedding["text"])


def test_nothing_to_encode(predictor: Predictor) -> None:
    empty = predictor.encode_batches([], ["text"])
    assert (empty.embedding, empty.row_ids) == ({}, {})


def test_training_mode_does_not_leak_in(predictor: Predictor) -> None:
    """In the training loop the task is in training mode between evaluations."""
    texts = ["a red dot"]
    want = predictor.encode(text=texts)["text"]
    predictor.task.train()
    try:
        assert torch.equal(predictor.encode(text=texts)["text"], want)
        assert not predictor.task.training
    finally:
        predictor.task.eval()


def test_untrained_is_the_same_network_before_training(predictor: Predictor) -> None:
    state = torch.get_rng_state()
    before, again, other = (untrained(predictor, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    trained, fresh = predictor.task.state_dict(), before.task.state_dict()
    assert set(trained) == set(fresh)
    for name, weight in again.task.state_dict().items():
        assert torch.equal(weight, fresh[name])
    frozen = [n for n in trained if n.startswith("model.encoders.text.")]
    assert frozen
    for name in frozen:
        assert torch.equal(fresh[name], trained[name])
        assert torch.equal(other.task.state_dict()[name], trained[name])
    for part in ("encoders.image", "encoders.audio", "projections", "fusion"):
        names = [n for n in trained if n.startswith(f"model.{part}.") and trained[n].ndim > 1]
        assert any(not torch.equal(fresh[n], trained[n]) for n in names), part
    assert not before.task.training
    assert before.specs == predictor.specs


def test_a_pretrained_model_has_no_logits(predictor: Predictor, data: Path) -> None:
    with pytest.raises(ConfigError, match="the checkpoint has no head"):
        predictor.logits_batches(sequential(predictor, data))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Predictor:
    return mmfm.load(make_checkpoint(tmp_path_factory.mktemp("head"), head=True))


def test_logits_of_a_head(classifier: Predictor, data: Path) -> None:
    assert classifier.label == Label("shape", SHAPES)
    head = classifier.head
    torch.nn.init.normal_(head.classifier.weight)
    batches = list(sequential(classifier, data, label=classifier.label))
    found = classifier.logits_batches(batches)
    assert found.logits.shape == (len(found.row_ids), 6)
    assert found.row_ids == sorted(set(found.row_ids))
    assert len(found.groups) == len(found.labels) == len(found.row_ids)
    assert (found.labels != IGNORE_INDEX).all()
    batch = next(b for b in batches if "image" in b)
    _, pooled = classifier.model.encoder("image")(batch["image"])
    want = head.classifier(head.norm(pooled))
    at = [found.row_ids.index(batch["sample_id"][r]) for r in batch["rows"]["image"].tolist()]
    close(found.logits[at], want.detach())
    assert found.labels[at].tolist() == batch["labels"][batch["rows"]["image"]].tolist()


def test_logits_without_any_sample(classifier: Predictor, data: Path) -> None:
    batches = [b for b in sequential(classifier, data) if "image" not in b]
    with pytest.raises(ValueError, match=r"no sample has any of what the head reads \(image\)"):
        classifier.logits_batches(batches)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    found = Checkpoint.open(folder)
    config = copy.deepcopy(found.config)
    del config["objectives"]["masked_audio"]
    text = json.dumps(config)
    (folder / "config.yaml").write_text(text)
    about = found.manifest
    about["files"]["config.yaml"] = {
        "bytes": len(text.encode()),
        "sha256": sha256(folder / "config.yaml"),
    }
    (folder / "manifest.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="its weights don't fit its own config"):
        mmfm.load(folder)


def test_what_a_head_predicts_and_what_is_right(classifier: Predictor, data: Path) -> None:
    torch.nn.init.normal_(classifier.head.classifier.weight)
    batches = list(sequential(classifier, data, label=classifier.label))
    for batch in batches:  # of some samples nothing is known
        batch["labels"][::3] = IGNORE_INDEX
    logits, judged = (f(batches) for f in (classifier.logits_batches, classifier.judged_batches))
    known = logits.labels != IGNORE_INDEX
    assert 0 < known.sum() < len(known)
    assert judged.row_ids == [i for i, k in zip(logits.row_ids, known, strict=True) if k]
    assert judged.target.tolist() == logits.labels[known].tolist()
    assert judged.groups.tolist() == logits.groups[known].tolist()
    assert judged.predicted["label"].tolist() == logits.logits[known].argmax(1).tolist()
    assert set(judged.predicted) == {"label", "probability"}
    for batch in batches:
        batch["labels"][:] = IGNORE_INDEX
    with pytest.raises(ValueError, match="both what the head reads and what it learns"):
        classifier.judged_batches(batches)
