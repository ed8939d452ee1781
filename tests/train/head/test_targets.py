"""What the targets of the training data decide before a head is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mmfm import cli
from mmfm.config import ConfigError
from mmfm.train.finetune import prepare
from tests import tiny

TEXTS = ["a red dot", "a blue box", "a green bar", "a red bar"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    return tiny.make_tokenizer(tmp_path_factory.mktemp("targets") / "tokenizer")


def recipe(folder: Path, tokenizer: str, kinds: list[str], head: dict[str, Any]) -> Any:
    folder.mkdir(exist_ok=True)
    lines = [f"{text},{kind}" for text, kind in zip(TEXTS, kinds, strict=True)]
    rows = "".join(f"{line},{n}\n" for n, line in enumerate(lines))
    (folder / "rows.csv").write_text("text,kind,price\n" + rows)
    words = ["texts.en=[text]", "labels=[kind]", "numbers=[price]", "shares={all: 1}"]
    made = ["data", "make", "table", str(folder / "rows.csv"), str(folder / "set"), *words]
    assert cli.main(made) == 0
    small = {"width": 16, "layers": 1, "heads": 2}
    settings = {
        "run": {"dir": str(folder / "run")},
        "model": {
            "embed_dim": 8,
            "encoders": {"text": {"type": "text_transformer", "tokenizer": tokenizer, **small}},
        },
        "head": {"modalities": ["text"], **head},
        "data": {"sources": {"train": {"path": str(folder / "set")}}, "global_batch_size": 4},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    return prepare(str(folder / "recipe.yaml")).recipe


CLASS = {"type": "classification", "label": "kind"}


def test_weights_and_units_are_in_the_recipe(tmp_path: Path, tokenizer: str) -> None:
    balanced = {**CLASS, "class_weights": "balanced"}
    found = recipe(tmp_path, tokenizer, ["a", "a", "a", "b"], balanced)
    assert found.head.class_weights == {"a": pytest.approx(4 / 6), "b": 2.0}
    price = {"type": "regression", "label": "price"}
    found = recipe(tmp_path, tokenizer, ["a", "a", "a", "b"], price)
    assert (found.head.mean, found.head.deviation) == (1.5, pytest.approx(1.25**0.5))


def test_one_class_only_is_refused(tmp_path: Path, tokenizer: str) -> None:
    with pytest.raises(ConfigError, match=r"no sample of data\.sources has a label but 'a'"):
        recipe(tmp_path / "one", tokenizer, ["a"] * 4, CLASS)
    with pytest.raises(ConfigError, match="the data have the labels kind"):
        recipe(tmp_path / "no", tokenizer, ["a", "a", "b", "b"], {**CLASS, "label": "sort"})
    weight = {"type": "regression", "label": "weight"}
    with pytest.raises(ConfigError, match="no training sample has such a number"):
        recipe(tmp_path / "none", tokenizer, ["a"] * 4, weight)


def test_one_class_in_the_part_that_is_trained_on_is_refused(
    tmp_path: Path, tokenizer: str
) -> None:
    recipe(tmp_path, tokenizer, ["a", "b", "b", "b"], CLASS)
    words = ["data.sources.train.subset={per_label: 1, label: kind, part: held_out}"]
    with pytest.raises(ConfigError, match=r"no sample of data\.sources has a label but 'b'"):
        prepare(str(tmp_path / "recipe.yaml"), words)
