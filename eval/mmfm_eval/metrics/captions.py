"""How near written texts are to references: BLEU-4, ROUGE-L, CIDEr-D, and equal texts.

Texts are compared by their words: runs of letters and digits, in lower case. Each row is a text
with one or more references. BLEU is one number for all rows together, so it is a statistic of row
weights (`mmfm_eval.metrics.bootstrap`); the others are a number for each row.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfm_eval.metrics.bootstrap import Floats, Statistic

Words = tuple[str, ...]
References = Sequence[Sequence[Words]]
"""The references of each row."""

LONGEST = 4
SIGMA = 6.0


def words(text: str) -> Words:
    return tuple(re.findall(r"[^\W_]+", text.lower()))


def equal(texts: Sequence[Words], references: References) -> NDArray[np.bool_]:
    """[n]: whether a text is one of its references."""
    return np.array([t in set(r) for t, r in zip(texts, references, strict=True)], dtype=bool)


def bleu(texts: Sequence[Words], references: References) -> Statistic:
    """The statistic BLEU-4 (Papineni et al. 2002) without smoothing: 0 where no four words in a
    row are right. The brevity penalty takes the reference whose length is closest, of two the
    shorter one.
    """
    rows = np.array([_bleu_parts(t, r) for t, r in zip(texts, references, strict=True)])

    def statistic(weights: Floats) -> Floats:
        sums = weights @ rows
        right, all_of_them = sums[:, :LONGEST], sums[:, LONGEST : 2 * LONGEST]
        length, wanted = sums[:, -2], sums[:, -1]
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.exp(np.log(right / all_of_them).mean(1))
            brevity = np.exp(np.minimum(0.0, 1 - wanted / length))
        return np.asarray(np.nan_to_num(precision * brevity, nan=0.0), dtype=np.float64)

    return statistic


def _bleu_parts(text: Words, references: Sequence[Words]) -> list[float]:
    """n-grams that are right, n-grams, for n = 1…4; the text's length and that wanted."""
    right, number = [], []
    for n in range(1, LONGEST + 1):
        own = _ngrams(text, n)
        most: Counter[Words] = Counter()
        for reference in references:
            most |= _ngrams(reference, n)
        right.append(float((own & most).total()))
        number.append(float(own.total()))
    wanted = min((abs(len(r) - len(text)), len(r)) for r in references)[1]
    return [*right, *number, float(len(text)), float(wanted)]


def rouge_l(texts: Sequence[Words], references: References) -> Floats:
    """[n]: the F1 of the longest common subsequence of words, with the reference where that is
    highest (Lin 2004).
    """
    return np.array(
        [max(_rouge(t, r) for r in rs) for t, rs in zip(texts, references, strict=True)]
    )


def _rouge(text: Words, reference: Words) -> float:
    if not text or not reference:
        return 0.0
    before = [0] * (len(reference) + 1)
    for word in text:
        row = [0]
        for place, other in enumerate(reference):
            row.append(before[place] + 1 if word == other else max(before[place + 1], row[place]))
        before = row
    return 2 * before[-1] / (len(text) + len(reference))


def cider_d(texts: Sequence[Words], references: References) -> Floats:
    """[n]: CIDEr-D (Vedantam et al. 2015, arXiv:1411.5726): the similarity of a text's n-grams, n =
    1…4, to those of each of its references, rare n-grams counting more; from 0 to 10.

    How rare an n-gram is comes from the references of all rows. As in the authors' code, n-grams
    are counted, not divided by the text's length.
    """
    rows = len(references)
    holding: Counter[Words] = Counter()
    for of_row in references:
        holding.update({gram for reference in of_row for gram in _all_ngrams(reference)})

    def vectors(text: Words) -> list[dict[Words, float]]:
        return [
            {g: k * math.log(rows / max(1, holding[g])) for g, k in _ngrams(text, n).items()}
            for n in range(1, LONGEST + 1)
        ]

    scores = []
    for text, of_row in zip(texts, references, strict=True):
        own, found = vectors(text), []
        for reference in of_row:
            gap = math.exp(-((len(text) - len(reference)) ** 2) / (2 * SIGMA**2))
            found.append(gap * np.mean(list(map(_clipped_cosine, own, vectors(reference)))))
        scores.append(10 * float(np.mean(found)))
    return np.array(scores)


def _clipped_cosine(own: dict[Words, float], reference: dict[Words, float]) -> float:
    size = _norm(own) * _norm(reference)
    shared = sum(min(v, reference[g]) * reference[g] for g, v in own.items() if g in reference)
    return shared / size if size else 0.0


def _norm(vector: dict[Words, float]) -> float:
    return math.sqrt(sum(v * v for v in vector.values()))


def _ngrams(text: Words, n: int) -> Counter[Words]:
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))


def _all_ngrams(text: Words) -> set[Words]:
    return {gram for n in range(1, LONGEST + 1) for gram in _ngrams(text, n)}


def all_scores(texts: Sequence[Words], references: References) -> dict[str, Any]:
    """Every metric by name: a statistic, or an array with a number for each row."""
    return {
        "BLEU-4": bleu(texts, references),
        "ROUGE-L": rouge_l(texts, references),
        "CIDEr-D": cider_d(texts, references),
        "exact_match": equal(texts, references),
    }
