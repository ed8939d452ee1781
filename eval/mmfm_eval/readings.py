"""What tasks read, and the passes over the data that give it: collective, each source run as seldom
as possible.

A *reading* names a source and the embeddings that a task needs of it. `encode_readings` merges
readings that one pass can serve (two tasks on the pictures of one source; pictures and texts of it)
and runs the passes in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mmfm.types import Label

Ints = NDArray[np.int64]


class Encoded(Protocol):
    """What `predictor.encode_batches` returns: per modality (and "fused") rows in the order of
    their sample ids.
    """

    embedding: dict[str, NDArray[Any]]
    pooled: dict[str, NDArray[Any]]
    row_ids: dict[str, list[str]]
    groups: dict[str, Ints]
    labels: dict[str, Ints]


@dataclass(frozen=True)
class HeadOutputs:
    """`logits` [n,C] of a classification head, the rows' labels (negative: none), groups and sample
    ids, the `names` of the classes.
    """

    logits: NDArray[np.float64]
    labels: Ints
    groups: Ints
    names: list[str]
    ids: list[str]

    def take(self, which: NDArray[np.bool_]) -> HeadOutputs:
        """The rows where `which` is True."""
        ids = [self.ids[i] for i in np.flatnonzero(which)]
        return HeadOutputs(
            self.logits[which], self.labels[which], self.groups[which], self.names, ids
        )


class Predictor(Protocol):
    """The part of `mmfm.predictor.Predictor` that the tasks use."""

    @property
    def specs(self) -> Mapping[str, Mapping[str, Any]]: ...

    @property
    def head(self) -> Any: ...

    def encode_batches(
        self,
        data: Iterable[Any],
        modalities: Sequence[str],
        fused: bool = False,
        pooled: bool = False,
    ) -> Any: ...

    def logits_batches(self, data: Iterable[Any]) -> Any: ...

    def rank_batches(self, data: Iterable[Any], place: int = 1) -> Any: ...


@dataclass(frozen=True)
class Reading:
    """The embeddings of `modalities` of one source, also fused or pooled; with the labels of a
    field where needed.

    `logits`: the outputs of the checkpoint's head, with its label, instead. `place`: where a
    recommendation head ranks the item at this place from the end of each history, instead.
    """

    source: str
    modalities: tuple[str, ...] = ()
    fused: bool = False
    pooled: bool = False
    label: str | None = None
    logits: bool = False
    place: int | None = None

    @property
    def of_head(self) -> bool:
        """Whether it is the head that is read, or an objective, not the embeddings."""
        return self.logits or self.place is not None

    def __str__(self) -> str:
        what = "head" if self.of_head else " + ".join(self.modalities)
        return f"{self.source}, {what}{', fused' * self.fused}"

    def serves(self, other: Reading) -> bool:
        """True if a pass for this reading gives all that `other` needs."""
        if self == other:
            return True
        return (
            self.source == other.source
            and not (self.of_head or other.of_head)
            and set(other.modalities) <= set(self.modalities)
            and (not other.fused or (self.fused and set(self.modalities) == set(other.modalities)))
            and (self.pooled or not other.pooled)
            and other.label in (None, self.label)
        )


@dataclass(frozen=True)
class OwnPass(Reading):
    """What a task reads in a way of its own: nothing else is served by that pass."""

    @property
    def of_head(self) -> bool:
        return True

    def run(self, predictor: Any, data: Mapping[str, Any]) -> Any:
        """The result, from the model and the sources. Collective."""
        raise NotImplementedError


def passes(readings: Iterable[Reading]) -> list[Reading]:
    """The passes that serve all `readings`, in an order that depends on the readings only.

    One for each fused combination, and one for the rest of each source and label.
    """
    readings = list(dict.fromkeys(readings))
    plan = [r for r in readings if r.fused or r.of_head]
    for reading in readings:
        if any(p.serves(reading) for p in plan):
            continue
        for at, planned in enumerate(plan):
            merged = _merge(planned, reading)
            if merged is not None:
                plan[at] = merged
                break
        else:
            plan.append(reading)
    return plan


def _merge(a: Reading, b: Reading) -> Reading | None:
    """One plain reading for both, or None where that is impossible."""
    plain = not (a.fused or a.of_head or b.fused or b.of_head)
    labels = {a.label, b.label} - {None}
    if not plain or a.source != b.source or len(labels) > 1:
        return None
    return replace(
        a,
        modalities=tuple(dict.fromkeys(a.modalities + b.modalities)),
        pooled=a.pooled or b.pooled,
        label=a.label or b.label,
    )


def encode_readings(
    predictor: Predictor,
    data: Mapping[str, Any],
    readings: Iterable[Reading],
    say: Callable[[str], None] = lambda text: None,
) -> dict[Reading, Any]:
    """The result of each reading; `say` hears of every pass before it runs.

    Collective: every rank calls it with the same readings and sources.
    """
    readings = list(dict.fromkeys(readings))
    plan, results = passes(readings), {}
    for number, reading in enumerate(plan, 1):
        say(f"pass {number} of {len(plan)}: {reading}")
        results[reading] = _run(predictor, data, reading)
    return {r: next(found for p, found in results.items() if p.serves(r)) for r in readings}


def _run(predictor: Predictor, data: Mapping[str, Any], reading: Reading) -> Any:
    """One pass. A source that can't be opened anew with a label has what it was opened with."""
    if isinstance(reading, OwnPass):
        return reading.run(predictor, data)
    source = data[reading.source]
    if reading.place is not None:
        return predictor.rank_batches(source, reading.place)
    if reading.logits:
        names = list(predictor.head.label_names)
        if hasattr(source, "with_label"):
            source = source.with_label(Label(predictor.head.label, names))
        found = predictor.logits_batches(source)
        return HeadOutputs(
            np.asarray(found.logits, dtype=np.float64),
            np.asarray(found.labels, dtype=np.int64),
            np.asarray(found.groups, dtype=np.int64),
            names,
            list(found.row_ids),
        )
    if reading.label is not None and hasattr(source, "with_label"):
        source = source.with_label(Label(reading.label, label_names(data, reading.label)))
    return predictor.encode_batches(
        source, reading.modalities, fused=reading.fused, pooled=reading.pooled
    )


def label_names(data: Mapping[str, Any], label: str) -> list[str]:
    """The names of the field `label` in all sources together, so that a name has one number in all
    of them.
    """
    names = {name for source in data.values() for name in source.label_names.get(label, [])}
    if not names:
        known = sorted({field for source in data.values() for field in source.label_names})
        raise ValueError(
            f"no source has a label {label!r}; the manifests name {', '.join(known) or 'none'}"
        )
    return sorted(names)
