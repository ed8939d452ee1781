"""BLEU against nltk, ROUGE-L and CIDEr-D by hand. (Written beside sacrebleu 2, rouge_score 0.1.2
and pycocoevalcap 1.2: all three agree to 1e-14.)
"""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from nltk.translate.bleu_score import corpus_bleu

from mmfm_eval.metrics import captions
from mmfm_eval.metrics.captions import words

VOCABULARY = ["a", "the", "red", "blue", "dot", "box", "on", "left", "of", "big", "small"]


def corpus(seed: int, rows: int = 40) -> tuple[list[tuple[str, ...]], list[list[tuple[str, ...]]]]:
    """Texts that share most words with one of their references."""
    rng = random.Random(seed)
    references = [
        [tuple(rng.choices(VOCABULARY, k=rng.randint(4, 9))) for _ in range(rng.randint(1, 4))]
        for _ in range(rows)
    ]
    texts = []
    for of_row in references:
        text = list(rng.choice(of_row))
        text[rng.randrange(len(text))] = rng.choice(VOCABULARY)
        texts.append(tuple(text[: rng.randint(4, 9)]))
    return texts, references


def test_words_are_letters_and_digits() -> None:
    assert words("A red-dot, no. 2 – Köln's_x!") == ("a", "red", "dot", "no", "2", "köln", "s", "x")


@pytest.mark.parametrize("seed", range(4))
def test_bleu_equals_nltk(seed: int) -> None:
    """Also of a resample, in which rows come several times."""
    texts, references = corpus(seed)
    weights = np.random.default_rng(seed).integers(0, 3, (2, len(texts))).astype(float)
    weights[0] = 1
    got = captions.bleu(texts, references)(weights)
    for value, weight in zip(got, weights, strict=True):
        rows = [i for i, count in enumerate(weight) for _ in range(int(count))]
        want = corpus_bleu([references[i] for i in rows], [texts[i] for i in rows])
        assert 0 < want < 1
        assert value == pytest.approx(want, rel=1e-12)


def test_bleu_is_zero_where_nothing_fits() -> None:
    ones = np.ones((1, 1))
    assert captions.bleu([("a", "red", "dot")], [[("a", "red", "dot")]])(ones)[0] == 0.0
    assert captions.bleu([()], [[("a",)]])(ones)[0] == 0.0
    assert captions.bleu([tuple("abcde")], [[tuple("abcde")]])(ones)[0] == 1.0


def test_rouge_l_by_hand() -> None:
    """The common words in order of "a red dot left" and "the red big dot" are two: F1 2·2/8."""
    texts = [words("a red dot left"), words("a red dot left"), ()]
    references = [
        [words("the red big dot")],
        [words("the red big dot"), words("a dot left")],
        [words("a")],
    ]
    assert captions.rouge_l(texts, references).tolist() == [0.5, 2 * 3 / 7, 0.0]


def test_cider_d_by_hand() -> None:
    """Two rows, so a word that one of them holds weighs log 2, one of both nothing."""
    texts = [words("a red dot"), words("blue")]
    references = [[words("a red red dot"), words("a dot")], [words("a blue box")]]
    # One-word vectors of the first row in units of log 2: text (red 1, dot 1), references (red 2,
    # dot 1) and (dot 1). Clipped: 1·2 + 1·1 over √2·√5; 1·1 over √2.
    one = [3 / math.sqrt(10), 1 / math.sqrt(2)]
    # Two words: (a red, red dot); (a red, red red, red dot): 2 over √2·√3; (a dot): nothing.
    two = [2 / math.sqrt(6), 0.0]
    # Three: (a red dot); (a red red, red red dot): nothing.
    length = [math.exp(-1 / 72), math.exp(-1 / 72)]
    first = 10 * np.mean([g * (o + t) / 4 for g, o, t in zip(length, one, two, strict=True)])
    second = 10 * math.exp(-4 / 72) * (1 / math.sqrt(2)) / 4
    got = captions.cider_d(texts, references)
    assert got.tolist() == pytest.approx([first, second], rel=1e-12)


def test_cider_d_of_the_reference_itself_is_ten() -> None:
    texts = [words("a red dot on the left"), words("one blue box and small"), words("big green")]
    got = captions.cider_d(texts, [[text] for text in texts])
    assert got[:2].tolist() == pytest.approx([10, 10])
    assert got[2] == pytest.approx(5)  # it has no three words


def test_equal_texts() -> None:
    got = captions.equal([("a", "b"), ("a",)], [[("b",), ("a", "b")], [("a", "b")]])
    assert got.tolist() == [True, False]
