"""The task `token_classification`: entity scores against seqeval, its baselines, other tags."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score
from sklearn.metrics import f1_score as macro_f1

from mmfm.config import ConfigError
from mmfm.data.manifest import Manifest
from mmfm.data.subset import SubsetConfig, subset_of
from mmfm.types import IGNORE_INDEX, Label
from mmfm_eval.metrics import entities
from mmfm_eval.tasks.token_classification import Config, TaggedTexts
from mmfm_prep.cli import main as data_command
from tests.data.make_shards import png, write_set

NAMES = ["B-creature", "B-place", "I-creature", "I-place", "O"]
TEXT = st.lists(st.sampled_from(NAMES), min_size=1, max_size=8)
PAIRS = st.lists(
    TEXT.flatmap(
        lambda t: st.tuples(
            st.just(t), st.lists(st.sampled_from(NAMES), min_size=len(t), max_size=len(t))
        )
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=60)
@given(PAIRS)
def test_scores_and_table_are_those_of_seqeval(pairs: list[tuple[list[str], list[str]]]) -> None:
    truth, predicted = [t for t, _ in pairs], [p for _, p in pairs]
    counts = entities.count(truth, predicted)
    ones = np.ones((1, len(pairs)))
    ours = {name: float(f(ones)[0]) for name, f in entities.micro(counts).items()}
    kwargs = {"zero_division": 0}
    assert ours["entity_f1"] == pytest.approx(f1_score(truth, predicted, **kwargs))
    assert ours["entity_precision"] == pytest.approx(precision_score(truth, predicted, **kwargs))
    assert ours["entity_recall"] == pytest.approx(recall_score(truth, predicted, **kwargs))
    if not counts.types:
        return
    theirs = classification_report(truth, predicted, output_dict=True, zero_division=0)
    table = {row["class"]: row for row in entities.table(counts)}
    assert set(table) == set(theirs)
    for name, row in theirs.items():
        assert table[name]["support"] == row["support"]
        for ours_key, key in (("precision",) * 2, ("recall",) * 2, ("f1", "f1-score")):
            if name != "weighted avg" or row["support"]:
                assert table[name][ours_key] == pytest.approx(row[key])


def test_chance_is_what_many_drawn_tags_reach() -> None:
    rng = np.random.default_rng(0)
    truth = [list(rng.choice(NAMES, size=n, p=[0.15, 0.1, 0.1, 0.05, 0.6])) for n in range(1, 30)]
    tags, counts = np.unique([t for text in truth for t in text], return_counts=True)
    right = told = 0
    for _ in range(300):
        drawn = [list(rng.choice(tags, size=len(t), p=counts / counts.sum())) for t in truth]
        found = entities.count(truth, drawn)
        right, told = right + found.right.sum(), told + found.told.sum()
    there = 300 * found.there.sum()
    assert entities.f1_by_chance(truth) == pytest.approx(2 * right / (told + there), rel=0.03)


def test_the_dictionary_takes_the_longest_entity_and_its_most_frequent_type() -> None:
    tokens = [["New", "York"], ["York"], ["York"], ["York"]]
    tags = [["B-place", "I-place"], ["B-creature"], ["B-creature"], ["B-place"]]
    dictionary = entities.Dictionary(tokens, tags)
    assert dictionary.tag(["New", "York", "York", "is", "New"]) == [
        *("B-place", "I-place", "B-creature", "O", "O"),
    ]
    assert entities.Dictionary([], []).tag(["York"]) == ["O"]
    assert dictionary.tag(["new", "york"]) == ["O", "O"]
    any_case = entities.Dictionary(tokens, tags, any_case=True)
    assert any_case.tag(["new", "YORK"]) == ["B-place", "I-place"]


TRAIN = [("Ada left", "B-creature O"), ("in London", "O B-place")]
TEST = [("Ada in Paris", "B-creature O B-place"), ("LONDON left", "B-place O"), ("no", "O")]


def _write(folder: Path, name: str, texts: list[tuple[str, str]]) -> None:
    pairs = [zip(t.split(), g.split(), strict=True) for t, g in texts]
    lines = ["".join(f"{token}\t{tag}\n" for token, tag in pair) for pair in pairs]
    (folder / f"{name}.conll").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("tags")
    raw = folder / "raw"
    raw.mkdir()
    _write(raw, "train", TRAIN)
    _write(raw, "test", TEST)
    assert data_command(["make", "conll", str(raw), str(folder / "set")]) == 0
    named = json.loads((folder / "set/manifest.json").read_text())["labels"]
    assert named == {"tags": ["B-creature", "B-place", "O"]}
    return {
        split: SimpleNamespace(manifest=Manifest.open(folder / "set", [split]))
        for split in ("train", "test")
    }


def judged(names: list[str], texts: list[tuple[str, str]], said: list[str]) -> Any:
    """What a head predicts of `texts`: the tags in `said`, "-" for none."""
    rows = [[names.index(t) for t in tags.split()] for _, tags in texts]
    told = [[names.index(t) if t != "-" else -1 for t in text.split()] for text in said]
    width = max(map(len, rows))

    def padded(lists: list[list[int]]) -> Any:
        return np.array([row + [IGNORE_INDEX] * (width - len(row)) for row in lists])

    return SimpleNamespace(
        predicted={"tags": padded(told)},
        target=padded(rows),
        row_ids=[f"test.conll/{i}" for i in range(len(texts))],
        groups=np.arange(len(texts)),
    )


def predictor(names: list[str], found: Any) -> Any:
    return SimpleNamespace(
        specs={"text": {}},
        head=SimpleNamespace(label_names=names),
        label=Label("tags", names, "tags"),
        judged_batches=lambda source: found,
    )


def test_a_head_beside_the_dictionary_and_chance(sources: dict[str, Any]) -> None:
    names = ["B-creature", "B-place", "O"]
    said = ["B-creature O O", "B-place B-place", "-"]
    evaluator = Config(source="test", train="train").build()
    found = predictor(names, judged(names, TEST, said))
    scores = {s.name: s for s in evaluator(found, sources)}
    f1 = scores["entity_f1"]
    assert (f1.value, f1.n) == (pytest.approx(2 * 2 / (3 + 3)), 3)
    assert f1.ci95 is not None
    assert f1.baseline_name == "dictionary"
    assert f1.baseline == pytest.approx(2 * 2 / (2 + 3))  # it knows Ada and London, not Paris
    assert 0 < f1.chance < 0.5
    details = evaluator.details(evaluator.encode(found, sources))
    assert details["begun_inside"] == {"told": 0, "right": 0}
    assert details["per_entity"][0] == {
        "class": "creature", "precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1,
    }  # fmt: skip


def test_a_dictionary_is_made_of_the_subset_alone(sources: dict[str, Any]) -> None:
    whole = TaggedTexts("train").run(None, sources)
    part = subset_of(sources["train"].manifest, SubsetConfig(folds=2))
    known = TaggedTexts("train").run(None, {"train": SimpleNamespace(manifest=part)})
    assert (len(whole), len(known)) == (2, 1)
    assert known.items() <= whole.items()


def test_damaged_texts_are_left_out(tmp_path: Path) -> None:
    meta = {"id": "a", "texts": ["Ada left"], "tokens": ["Ada", "left"], "tags": ["B-x", "O"]}
    good, bad = {"json": json.dumps(meta).encode()}, {"json": b"{", "png": png(1)}
    manifest = Manifest.open(write_set(tmp_path, [[("0", bad), ("1", good)]]))
    assert manifest.index(0).has_some().all()
    data = {"train": SimpleNamespace(manifest=manifest)}
    assert TaggedTexts("train").run(None, data) == {"a": (meta["tokens"], meta["tags"])}


def test_tags_that_are_no_entities_are_judged_by_token() -> None:
    names = ["NOUN", "VERB", "X"]
    texts = [("a b c", "NOUN VERB NOUN"), ("d", "X")]
    evaluator = Config(source="test").build()
    found = predictor(names, judged(names, texts, ["NOUN NOUN -", "X"]))
    accuracy, macro = evaluator(found, {"test": SimpleNamespace()})
    assert (accuracy.name, accuracy.value, accuracy.n) == ("token_accuracy", 0.5, 4)
    assert (accuracy.chance, accuracy.baseline) == (pytest.approx(1 / 3), 0.5)
    want = macro_f1([0, 1, 0, 2], [0, 0, -1, 2], average="macro", labels=[-1, 0, 1, 2])
    assert macro.value == pytest.approx(want)


def test_other_heads_are_refused() -> None:
    other = predictor(["a", "b"], None)
    other.label = Label("shape", ["a", "b"])
    with pytest.raises(ConfigError, match="needs a checkpoint with a head of that name"):
        Config(source="test").build().check_model(other)
