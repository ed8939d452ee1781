"""A part of a data set: of a fold what is trained on or held out, a few samples a label, a share.

    data.sources.art.subset: {folds: 5, fold: 0, label: category}
    eval.sources.held_out.subset: {folds: 5, fold: 0, label: category, part: held_out}
    data.sources.few.subset: {per_label: 5, label: category, seed: 1}

Which samples these are follows from the samples and the settings alone: from their ids, not from
their places, so the same samples in other shards give the same parts. Samples of one group are
never in both parts of a fold or a share.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmfm.config import nearest
from mmfm.data.facts import Facts, read_facts, visible
from mmfm.data.lru import Lru
from mmfm.data.manifest import Manifest
from mmfm.data.reader import hash63

Mask = NDArray[np.bool_]
"""[n] of all samples of a data set: those inside."""


@dataclass(kw_only=True)
class SubsetConfig:
    """`folds`: the data set falls into so many parts of equal size, by group; `fold` is held out.
    `per_label`: so many samples of each `label`; more of them hold the fewer ones of the same
    `seed`. `share`: of the groups. With `folds`, the few samples or the share are drawn of the
    fold's training part, and "held_out" is the whole fold; without, "held_out" is all that has no
    group in common with what was drawn. `label`: the field of the samples' labels; folds and
    shares then have each label equally often.
    """

    folds: int | None = None
    fold: int = 0
    per_label: int | None = None
    share: float | None = None
    label: str | None = None
    part: Literal["train", "held_out"] = "train"
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.folds, self.per_label, self.share) == (None, None, None):
            raise ValueError("name folds, per_label or share: without one, leave the subset out")
        if self.folds is not None and self.folds < 2:
            raise ValueError(f"folds = {self.folds} must be at least 2")
        if not 0 <= self.fold < (self.folds or 1):
            raise ValueError(f"fold = {self.fold}: of folds = {self.folds}, the first is 0")
        if self.per_label is not None and self.share is not None:
            raise ValueError("per_label and share are two ways to draw: name one of them")
        if self.per_label is not None and (self.per_label < 1 or self.label is None):
            raise ValueError(
                f"per_label = {self.per_label} needs a positive number, and the field of the labels"
                " as label"
            )
        if self.share is not None and not 0 < self.share < 1:
            raise ValueError(f"share = {self.share} must be between 0 and 1")


_drawn: Lru[tuple[Mask, list[str]]] = Lru(32)


def subset_of(manifest: Manifest, config: SubsetConfig) -> Manifest:
    """`manifest` with nothing but the part that `config` names; its `notes` say what there is less
    of than was asked for.

    ValueError where that part is empty, or no sample has the label's field.
    """
    key = manifest.digest(), repr(config)
    inside, notes = _drawn.get(key, lambda: _draw(manifest, config))
    first = read_facts(manifest).first
    parts = [inside[a:b] for a, b in pairwise(first)]
    return manifest.with_only(parts, notes)


def _draw(manifest: Manifest, config: SubsetConfig) -> tuple[Mask, list[str]]:
    facts, usable = read_facts(manifest), visible(manifest)
    if config.label is not None:
        _check_label(manifest, facts, config.label)
    values = None if config.label is None else facts.values(config.label)
    inside = np.ones(len(usable), np.bool_)
    notes: list[str] = []
    held_out = config.part == "held_out"
    if config.folds is not None:
        fold = _folds(facts.groups, values, config.folds, config.seed)
        inside = (fold == config.fold) == held_out
    if config.folds is None or not held_out:
        drawn = inside
        if config.per_label is not None:
            assert config.label is not None
            assert values is not None
            known = manifest.label_names.get(config.label, ())
            n, seed = config.per_label, config.seed
            drawn, notes = _few(facts.names, values, inside & usable, n, seed, known)
        elif config.share is not None:
            drawn = inside & _share(facts.groups, values, inside, config.share, config.seed)
        if held_out:
            taken = {facts.groups[i] for i in np.flatnonzero(drawn).tolist()}
            drawn = inside & np.array([group not in taken for group in facts.groups], np.bool_)
        inside = drawn
    if not (inside & usable).any():
        raise ValueError(
            f"subset: of {int(usable.sum())} samples none is in the part {config.part!r}: "
            f"{len(set(facts.groups))} groups in all"
        )
    return inside, notes


def _check_label(manifest: Manifest, facts: Facts, label: str) -> None:
    fields = dict.fromkeys([*manifest.label_names, *(f for one in facts.labels for f in one)])
    if label not in fields:
        there = nearest(label, fields) or ": no sample has labels"
        raise ValueError(f"subset.label = {label!r} is no field of the labels{there}")
    if not any(label in one for one in facts.labels):
        raise ValueError(
            f"subset.label = {label!r}: no sample has such a label itself (the tags of a text's "
            "tokens are none); leave it out, and take a share in place of per_label"
        )


def _folds(
    groups: Sequence[str], values: Sequence[tuple[str, ...]] | None, folds: int, seed: int
) -> NDArray[np.int64]:
    """The fold of each sample: groups one after the other go where there are fewest samples of
    their label so far, and of these where there are fewest at all.
    """
    sizes, all_of = Counter(groups), [0] * folds
    chosen: dict[str, int] = {}
    for members in _by_label(groups, values, seed):
        of_label = [0] * folds
        for group in members:
            fold = min(range(folds), key=lambda f: (of_label[f], all_of[f], f))
            chosen[group] = fold
            of_label[fold] += sizes[group]
            all_of[fold] += sizes[group]
    return np.array([chosen[group] for group in groups], np.int64)


def _share(
    groups: Sequence[str],
    values: Sequence[tuple[str, ...]] | None,
    inside: Mask,
    share: float,
    seed: int,
) -> Mask:
    """Of each label the first groups, as many as are that share of them; one at least in all."""
    at = np.flatnonzero(inside).tolist()
    of = [groups[i] for i in at]
    taken: set[str] = set()
    owed = 0.0
    for members in _by_label(of, None if values is None else [values[i] for i in at], seed):
        # What rounding leaves of one label is given to the next.
        owed += share * len(members)
        count = min(len(members), round(owed))
        owed -= count
        taken |= set(members[:count])
    if not taken:
        taken = {min(of, key=lambda group: hash63(f"{seed} {group}"))}
    return np.array([group in taken for group in groups], np.bool_)


def _by_label(
    groups: Sequence[str], values: Sequence[tuple[str, ...]] | None, seed: int
) -> list[list[str]]:
    """The groups of each label, shuffled; a group with several labels counts for its rarest."""
    label: dict[str, tuple[int, str]] = {}
    if values is None:
        label = dict.fromkeys(groups, (0, ""))
    else:
        counts = Counter(value for of in values for value in of)
        for group, of in zip(groups, values, strict=True):
            rarest = min(((counts[value], value) for value in of), default=(len(groups) + 1, ""))
            label[group] = min(label.get(group, rarest), rarest)
    found: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
    for group in sorted(label, key=lambda group: hash63(f"{seed} {group}")):
        found[label[group]].append(group)
    return [found[key] for key in sorted(found)]


def _few(
    names: Sequence[str],
    values: Sequence[tuple[str, ...]],
    among: Mask,
    n: int,
    seed: int,
    known: Iterable[str],
) -> tuple[Mask, list[str]]:
    """The first `n` samples of each label, shuffled, and a note where there are not so many."""
    counts: Counter[str] = Counter(dict.fromkeys(known, 0))
    drawn = np.zeros(len(among), np.bool_)
    for i in sorted(np.flatnonzero(among).tolist(), key=lambda i: hash63(f"{seed} {names[i]}")):
        wanted = [value for value in values[i] if counts[value] < n]
        drawn[i] = bool(wanted)
        counts.update(values[i] if wanted else ())
    fewer = {value: count for value, count in sorted(counts.items()) if count < n}
    if not fewer:
        return drawn, []
    shown = ", ".join(f"{value} {count}" for value, count in list(fewer.items())[:10])
    more = f" and {len(fewer) - 10} more" if len(fewer) > 10 else ""
    return drawn, [f"{len(fewer)} labels have fewer than {n} samples: {shown}{more}"]
