"""Tokens, sub-words and windows."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertTokenizerFast

from mmfm.data.collate import collate
from mmfm.data.decode import Sample
from mmfm.data.transforms._tagged_text import NO_WORD, owners, window_spans
from mmfm.data.transforms.base import BadSample, Windows
from mmfm.data.transforms.text import Config
from mmfm.types import IGNORE_INDEX

NAMES = ["B-person", "I-person", "O"]
WORDS = ["ada", "love", "##lace", "left", "lon", "##don", "a"]
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tagged") / "bert"
    folder.mkdir()
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizerFast(vocab=str(vocabulary)).save_pretrained(folder)
    return folder


def transform(folder: Path, max_length: int = 32, overlap: int = 2, **more: Any) -> Any:
    spec = {
        "tokenizer": str(folder),
        "max_length": max_length,
        "vocab_size": 12,
        "tags": {"field": "tags", "names": NAMES, "overlap": overlap},
    }
    return Config(**more).build(spec)


def meta(tokens: list[str], tags: list[str] | None = None) -> dict[str, Any]:
    return {"tokens": tokens} if tags is None else {"tokens": tokens, "tags": tags}


def decoded(
    made: Any, tokens: list[str], tags: list[str] | None = None, train: bool = False
) -> Any:
    return made.decode({}, meta(tokens, tags), RNG, train)


def test_the_first_sub_word_stands_for_its_token_as_transformers_has_it(folder: Path) -> None:
    tokens = ["ada", "lovelace", "left", "\u200d", "london"]
    tags = ["B-person", "I-person", "O", "O", "O"]
    (window,) = decoded(transform(folder), tokens, tags)
    fast = BertTokenizerFast.from_pretrained(folder)
    theirs = fast(tokens, is_split_into_words=True)
    assert window.ids.tolist() == theirs["input_ids"]
    first = [
        NO_WORD if word is None or word == before else word
        for before, word in zip([None, *theirs.word_ids()], theirs.word_ids(), strict=False)
    ]
    assert window.words.tolist() == first
    assert 3 not in window.words  # the tokenizer leaves nothing of it
    assert window.tags.tolist() == [0, 1, 2, 2, 2]


def test_a_batch_holds_tokens_tags_and_places(folder: Path) -> None:
    made = transform(folder)
    samples = [
        Sample(
            "x", 0, 0, 0, None, inputs={"text": decoded(made, ["ada", "left"], ["B-person", "O"])}
        ),
        Sample("y", 0, 0, 0, None, inputs={"text": decoded(made, ["lovelace"])}),
    ]
    batch = collate(samples, {"text": made})
    assert batch["text_words"].tolist() == [[-1, 0, 1, -1], [-1, 0, -1, -1]]
    assert batch["text_tags"].tolist() == [[0, 2], [IGNORE_INDEX, IGNORE_INDEX]]
    assert batch["text_tokens"] == [["ada", "left"], ["lovelace"]]
    assert batch["text_mask"].sum(1).tolist() == [4, 4]
    assert "window" not in batch


def test_a_long_text_comes_in_windows_that_judge_each_token_once(folder: Path) -> None:
    made = transform(folder, max_length=7, overlap=3)
    tokens = ["ada", "lovelace", "left", "london", "a", "lovelace", "left", "ada"]
    windows = decoded(made, tokens)
    assert isinstance(windows, Windows)
    assert len(windows) > 1
    judged = [int(w) for window in windows for w in window.words if w != NO_WORD]
    assert sorted(judged) == list(range(len(tokens)))
    sample = Sample("x", 0, 0, 0, None, inputs={"text": windows})
    other = Sample("y", 0, 0, 0, None, inputs={"text": decoded(made, ["ada"])})
    batch = collate([sample, other], {"text": made})
    assert batch["sample_id"] == ["x"] * len(windows) + ["y"]
    assert batch["window"].tolist() == [*range(len(windows)), 0]
    assert batch["rows"]["text"].tolist() == list(range(len(windows) + 1))


def test_training_draws_one_window_and_judges_all_that_begins_there(folder: Path) -> None:
    made = transform(folder, max_length=6, overlap=1)
    tokens = ["ada", "left", "a"] * 6
    drawn = [decoded(made, tokens, ["O"] * 18, train=True) for _ in range(64)]
    assert {len(windows) for windows in drawn} == {1}
    seen = [{int(w) for w in windows[0].words if w != NO_WORD} for windows in drawn]
    assert all(len(words) == 4 for words in seen)
    assert set.union(*seen) == set(range(18))


@given(
    length=st.integers(1, 60),
    room=st.integers(2, 20),
    overlap=st.integers(0, 19),
)
def test_windows_cover_the_text_and_each_place_is_where_most_is_seen_around_it(
    length: int, room: int, overlap: int
) -> None:
    overlap = min(overlap, room - 1)
    spans = window_spans(length, room, overlap)
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    assert all(0 < end - first <= room for first, end in spans)
    for (_, end), (first, _) in pairwise(spans):
        assert end - first >= overlap
    owner = owners(np.arange(length), spans)
    for place in range(length):
        margins = [min(place - first, end - 1 - place) for first, end in spans]
        assert margins[owner[place]] == max(margins)


def test_texts_without_tokens_are_split_at_white_space(folder: Path) -> None:
    made = transform(folder)
    (window,) = made.decode({}, {"texts": ["ada  left"]}, RNG, False)
    assert window.tokens == ["ada", "left"]
    (again,) = made.decode_content(made.content_of("ada left"), RNG, False)
    (listed,) = made.decode_content(made.content_of(["ada", "left"]), RNG, False)
    assert again.tokens == listed.tokens == ["ada", "left"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (meta(["ada"], ["B-person", "O"]), "tags don't fit the tokens"),
        ({"tokens": "ada", "tags": ["O"]}, "tokens not a list of strings"),
        ({"tokens": ["ada"], "tags": "O"}, "tags don't fit the tokens"),
        (meta(["\u200d"], ["O"]), "text has no tokens"),
        (meta(["ada" * 10], ["O"]), "text too long"),
    ],
)
def test_bad_samples_are_told(folder: Path, given: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadSample, match=reason):
        transform(folder, max_characters=20).decode({}, given, RNG, False)


def test_an_unknown_tag_is_refused_in_training_and_never_right_in_evaluation(folder: Path) -> None:
    tokens, tags = ["ada", "left", "a", "london"], ["B-person", "B-place", "I-place", "X"]
    with pytest.raises(BadSample, match=r"unknown tag \(B-place, I-place, X is none of"):
        decoded(transform(folder), tokens, tags, train=True)
    (window,) = decoded(transform(folder), tokens, tags)
    assert window.tags.tolist() == [0, 3, 4, 5]


def test_an_overlap_that_leaves_nothing_new_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"head.overlap = 5 must be from 0 to below the 5 sub-w"):
        transform(folder, max_length=7, overlap=5)


def test_masks_are_bool(folder: Path) -> None:
    made = transform(folder)
    assert made.collate(list(decoded(made, ["ada"])))["text_mask"].dtype is torch.bool
