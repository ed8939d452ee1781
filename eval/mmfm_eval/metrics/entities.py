"""Precision, recall and F1 of entities as statistics of row weights (see `bootstrap`), the table by
type, and two baselines.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfm.entities import OUTSIDE, Entity, entities
from mmfm_eval.metrics.bootstrap import Statistic

Tags = Sequence[Sequence[str]]
"""Of each text the tags of its tokens."""


@dataclass(frozen=True)
class Counts:
    """[texts, types]: entities that are right, that are told, that there are; a right one has the
    type and both ends.
    """

    types: list[str]
    right: NDArray[np.int64]
    told: NDArray[np.int64]
    there: NDArray[np.int64]


def count(truth: Tags, predicted: Tags) -> Counts:
    """The counts of each text, by type."""
    pairs = [(set(entities(t)), set(entities(p))) for t, p in zip(truth, predicted, strict=True)]
    types = sorted({e[0] for pair in pairs for found in pair for e in found})

    def by_type(found: Iterable[Iterable[Entity]]) -> NDArray[np.int64]:
        rows = [Counter(e[0] for e in one) for one in found]
        return np.array([[row[kind] for kind in types] for row in rows], dtype=np.int64)

    return Counts(
        types,
        by_type(t & p for t, p in pairs),
        by_type(p for _, p in pairs),
        by_type(t for t, _ in pairs),
    )


def micro(counts: Counts) -> dict[str, Statistic]:
    """Precision, recall and F1 over all entities: 0 where there is nothing to divide by."""
    right, told, there = (x.sum(1) for x in (counts.right, counts.told, counts.there))

    def ratio(above: NDArray[Any], below: NDArray[Any]) -> Statistic:
        return lambda weights: weights @ above / np.maximum(weights @ below, 1e-12)

    return {
        "entity_f1": ratio(2 * right, told + there),
        "entity_precision": ratio(right, told),
        "entity_recall": ratio(right, there),
    }


def table(counts: Counts) -> list[dict[str, Any]]:
    """For each type, and the averages that scikit-learn's classification_report has: precision,
    recall, F1 and support.
    """
    right, told, there = (x.sum(0) for x in (counts.right, counts.told, counts.there))
    rows = [
        _row(kind, r, p, t) for kind, r, p, t in zip(counts.types, right, told, there, strict=True)
    ]
    support = int(there.sum())
    averages = [_row("micro avg", int(right.sum()), int(told.sum()), support)]
    for name, weights in (("macro avg", np.ones(len(rows))), ("weighted avg", there)):
        shares = weights / max(float(weights.sum()), 1e-12)
        means = {
            key: float(np.dot(shares, [row[key] for row in rows])) if rows else 0.0
            for key in ("precision", "recall", "f1")
        }
        averages.append({"class": name, **means, "support": support})
    return [*rows, *averages]


def _row(name: str, right: int, told: int, there: int) -> dict[str, Any]:
    return {
        "class": name,
        "precision": float(right / told) if told else 0.0,
        "recall": float(right / there) if there else 0.0,
        "f1": float(2 * right / (told + there)) if told + there else 0.0,
        "support": int(there),
    }


def f1_by_chance(truth: Tags) -> float:
    """The entity F1 that tags tend to which are drawn one by one by their frequency in `truth`.

    An entity of n tokens is found where its first token begins that type, n - 1 go on, and the next
    doesn't: the expected number of those that are right and of all that are told.
    """
    tags = Counter(tag for text in truth for tag in text)
    share = {tag: n / max(tags.total(), 1) for tag, n in tags.items()}
    kinds = {kind for tag in tags if (kind := tag.partition("-")[2])}
    b = {kind: share.get(f"B-{kind}", 0.0) for kind in kinds}
    i = {kind: share.get(f"I-{kind}", 0.0) for kind in kinds}

    def begins(kind: str, first: bool) -> float:
        return b[kind] + i[kind] * (1.0 if first else 1 - b[kind] - i[kind])

    told = sum(
        (begins(k, True) + (len(text) - 1) * begins(k, False)) for text in truth for k in kinds
    )
    right = sum(
        begins(kind, start == 0)
        * i[kind] ** (end - start - 1)
        * (1.0 if end == len(text) else 1 - i[kind])
        for text in truth
        for kind, start, end in entities(text)
    )
    there = sum(len(entities(text)) for text in truth)
    return 2 * right / max(told + there, 1e-12)


class Dictionary:
    """Tags every entity of the training texts wherever its tokens stand again, the longest first;
    of several types the most frequent. The baseline that knows no context. `any_case`: small and
    capital letters are the same.
    """

    def __init__(self, tokens: Tags, tags: Tags, any_case: bool = False) -> None:
        self._key = str.lower if any_case else str
        seen: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for words, text in zip(tokens, tags, strict=True):
            for kind, start, end in entities(text):
                seen[tuple(map(self._key, words[start:end]))][kind] += 1
        self._types = {span: kinds.most_common(1)[0][0] for span, kinds in seen.items()}
        self._longest = max((len(span) for span in self._types), default=0)

    def tag(self, tokens: Sequence[str]) -> list[str]:
        """The tags of one text."""
        tags, place = [OUTSIDE] * len(tokens), 0
        while place < len(tokens):
            for end in range(min(len(tokens), place + self._longest), place, -1):
                kind = self._types.get(tuple(map(self._key, tokens[place:end])))
                if kind is not None:
                    tags[place:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - place - 1)
                    place = end
                    break
            else:
                place += 1
        return tags
