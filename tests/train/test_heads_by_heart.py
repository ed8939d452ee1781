"""Heads from raw files to predictions: made into shards, fine-tuned by the command until they know
the few samples by heart, judged by their tasks, and asked through `mmfm.load`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import mmfm
from mmfm import cli
from mmfm.data.tokenizer import train_bpe
from mmfm.train.log import read_metrics

NAMES, PLACES = ["Ada", "Alan", "Grace"], ["London", "Paris", "Rome"]
ROWS = [
    (f"{name} is in {place} with {other}", ["B-person", "O", "O", "B-place", "O", "B-person"])
    for name in NAMES
    for place in PLACES
    for other in NAMES
]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """``tags`` from CoNLL, ``table`` with a set of labels, a number and a level; a tokenizer."""
    folder = tmp_path_factory.mktemp("heart")
    lines = [
        "".join(f"{token}\t{tag}\n" for token, tag in zip(text.split(), tags, strict=True))
        for text, tags in ROWS
    ]
    (folder / "train.conll").write_text("\n".join(lines))
    assert (
        cli.main(["data", "make", "conll", str(folder / "train.conll"), str(folder / "tags")]) == 0
    )
    cells = ["text,who,price,level"]
    for text, _ in ROWS:
        first, _, _, place, _, other = text.split()
        level = ["low", "mid", "top"][NAMES.index(first)]
        price = 10.0 + 5 * PLACES.index(place)
        cells.append(f"{text},{'|'.join({first, other})},{price},{level}")
    (folder / "rows.csv").write_text("\n".join(cells))
    words = ["texts.en=[text]", "label_sets=[who]", "numbers=[price]", "labels=[level]"]
    made = ["data", "make", "table", str(folder / "rows.csv"), str(folder / "table"), *words]
    assert cli.main(made) == 0
    train_bpe([text for text, _ in ROWS], vocab_size=320, folder=folder / "tokenizer")
    return folder


def run(data: Path, out: Path, which: str, head: dict[str, Any], task: dict[str, Any]) -> Any:
    """The predictor of a run of `head` on the data `which`, and its scores before and after."""
    split = json.loads((data / which / "manifest.json").read_text())["splits"]
    source = {"path": str(data / which), "splits": split}
    encoder = {
        "type": "text_transformer",
        "tokenizer": str(data / "tokenizer"),
        "max_length": 12,
        "bidirectional": True,
        **{"width": 32, "layers": 1, "heads": 2},
    }
    recipe = {
        "run": {"dir": str(out), "trackers": []},
        "model": {"embed_dim": 8, "encoders": {"text": encoder}},
        "head": head,
        "data": {
            "sources": {"train": source},
            "global_batch_size": 27,
            "streams": 1,
            "workers": 0,
        },
        "optim": {"lr": 1e-2, "weight_decay": 0.0},
        "train": {"max_steps": 60, "zero_stage": 0, "save_every": 60, "eval_every": 60},
        "eval": {"sources": {"same": source}, "tasks": {"it": {"source": "same", **task}}},
    }
    file = out.parent / f"{out.name}.yaml"
    file.write_text(yaml.safe_dump(recipe))
    assert cli.main(["finetune", str(file)]) == 0
    rows = [r for r in read_metrics(out / "metrics.jsonl") if "metric" in r]
    scores = {(r["metric"], r["step"]): r["value"] for r in rows}
    return mmfm.load(out), scores


def test_entities_of_texts_in_windows(data: Path, tmp_path: Path) -> None:
    head = {"type": "token_classification", "overlap": 2, "dropout": 0.0}
    task = {"type": "token_classification", "train": "same"}
    predictor, scores = run(data, tmp_path / "run", "tags", head, task)
    assert scores["entity_f1", 60] == 1.0 > scores["entity_f1", 0]
    long = " ".join(["is in with"] * 6)
    texts = ["Ada is in Rome with Alan", f"Grace is in London with Ada {long}".split()]
    first, second = predictor.predict(texts=texts, batch_size=1)
    assert [(e["type"], e["text"]) for e in first["entities"]] == [
        ("person", "Ada"),
        ("place", "Rome"),
        ("person", "Alan"),
    ]
    assert second["tokens"] == texts[1]
    assert len(second["tags"]) == len(texts[1])
    long_text = " ".join(texts[1])
    embedding = predictor.encode(texts=[long_text, "Ada"])["text"]
    assert embedding.shape == (2, 8)  # one for each text, however many windows
    assert torch.allclose(embedding[1:], predictor.encode(texts=["Ada"])["text"], atol=1e-6)


def test_sets_numbers_and_levels(data: Path, tmp_path: Path) -> None:
    text = {"label": "who", "modalities": ["text"]}
    predictor, scores = run(
        data,
        tmp_path / "sets",
        "table",
        {"type": "classification", "multi_label": True, "class_weights": "balanced", **text},
        {"type": "multi_label"},
    )
    assert scores["all_right", 60] == 1.0 > scores["all_right", 0]
    weights = predictor.config["head"]["class_weights"]
    assert weights == {name: pytest.approx(12 / 15) for name in NAMES}
    (answer,) = predictor.predict(texts=["Ada is in Rome with Alan"])
    assert answer["labels"] == ["Ada", "Alan"]

    price = {"type": "regression", **text, "label": "price", "loss": "huber"}
    predictor, scores = run(data, tmp_path / "price", "table", price, {"type": "regression"})
    assert scores["absolute_error", 0] == pytest.approx(10 / 3, rel=0.1)  # near the mean, 15
    assert scores["absolute_error", 60] < 0.5
    (answer,) = predictor.predict(texts=["Ada is in Rome with Alan"])
    assert answer["value"] == pytest.approx(20, abs=1)

    level = {"type": "regression", **text, "label": "level", "order": ["low", "mid", "top"]}
    level["loss"] = "ordinal"
    predictor, scores = run(data, tmp_path / "level", "table", level, {"type": "head"})
    assert scores["absolute_error", 60] == 0
    answers = predictor.predict(texts=[text for text, _ in ROWS])
    assert [a["label"] for a in answers[::9]] == ["low", "mid", "top"]


def test_what_a_user_gives_is_checked(data: Path, tmp_path: Path) -> None:
    text = {"type": "classification", "label": "level", "modalities": ["text"]}
    predictor, _ = run(data, tmp_path / "run", "table", text, {"type": "classification"})
    with pytest.raises(ValueError, match="no modality 'smell'; the model has text"):
        predictor.predict(smell=["x"])
    with pytest.raises(ValueError, match="texts must be a list of items, not str"):
        predictor.predict(texts="Ada")
    with pytest.raises(ValueError, match="'text' is given twice"):
        predictor.predict(texts=["a"], text=["b"])
    with pytest.raises(ValueError, match="sample 1 has none of what the head reads: text"):
        predictor.predict(texts=["a", None])
    with pytest.raises(ValueError, match=r"give lists of one length.*not nothing"):
        predictor.predict()
    assert set(predictor.encode(texts=["a", "b"])) == {"text"}
