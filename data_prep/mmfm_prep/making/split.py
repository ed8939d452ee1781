"""Splits that don't leak: what is connected by equal content goes into one split, whole."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import groupby


def connected_components(
    items: Sequence[str], features: Iterable[tuple[str, Hashable]]
) -> dict[str, str]:
    """Item ▶ the name of its component: the smallest item that it is connected with.

    `features`: pairs (item, something it has); two items that have something in common are
    connected, and so is what they are connected with.
    """
    parent = {item: item for item in items}

    def root(item: str) -> str:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    first: dict[Hashable, str] = {}
    for item, feature in features:
        one, other = sorted((root(item), root(first.setdefault(feature, item))))
        parent[other] = one
    return {item: root(item) for item in items}


def assign(names: Iterable[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Name ▶ split, drawn in the proportions of `shares` from a hash of seed and name.

    A name keeps its split when others come or go.
    """
    total = sum(shares.values())
    out = {}
    for name in names:
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64 * total
        for split, share in shares.items():
            out[name] = split
            place -= share
            if place < 0:
                break
    return out


def assign_by_time(
    groups: Mapping[str, tuple[float, int]], shares: Mapping[str, float]
) -> dict[str, str]:
    """Group ▶ split: the oldest go into the first split of `shares`, the newest into the last, and
    those of one time into the same.

    `groups`: the time of a group's latest sample, so that no split is followed by an older one, and
    its number of samples, by which the shares are cut.
    """
    total, all_samples = sum(shares.values()), sum(count for _, count in groups.values())
    ends, end = [], 0.0
    for split, share in shares.items():
        end += share / total * all_samples
        ends.append((end, split))
    out: dict[str, str] = {}
    before = 0
    in_order = sorted(groups, key=lambda name: groups[name][0])
    for _, equal in groupby(in_order, key=lambda name: groups[name][0]):
        names = list(equal)
        count = sum(groups[name][1] for name in names)
        middle = before + count / 2
        split = next((split for end, split in ends if middle < end), ends[-1][1])
        out |= dict.fromkeys(names, split)
        before += count
    return out
