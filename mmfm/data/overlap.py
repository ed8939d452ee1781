"""Whether two data sets share samples: a test must not hold what was trained on.

shared = common_sample(test_manifest, train_manifest)  # a name, or None
"""

from __future__ import annotations

import numpy as np

from mmfm.data.facts import read_facts, visible
from mmfm.data.manifest import Manifest

ID_LIMIT = 500_000
"""Samples of both together above which only equal shards are looked for: it takes seconds."""


def common_sample(one: Manifest, other: Manifest) -> str | None:
    """A sample that is inside both, by its place in the same shard or by its id; None where there
    is none.

    Ids are compared where both data sets lie on a disk and are no larger than `ID_LIMIT` together.
    """
    same = {shard.sha256: number for number, shard in enumerate(other.shards)}
    for number, shard in enumerate(one.shards):
        if shard.sha256 in same:
            both = one.index(number).has_some() & other.index(same[shard.sha256]).has_some()
            if both.any():
                return f"{shard.name}/{one.index(number).key(int(both.argmax()))}"
    if not comparable(one, other):
        return None
    return min(_ids(one) & _ids(other), default=None)


def comparable(one: Manifest, other: Manifest) -> bool:
    """Whether `common_sample` compares ids, and not shards only."""
    samples = sum(shard.samples for m in (one, other) for shard in m.shards)
    return samples <= ID_LIMIT and one.remote is None and other.remote is None


def _ids(manifest: Manifest) -> set[str]:
    facts, places = read_facts(manifest), np.flatnonzero(visible(manifest)).tolist()
    return {told for i in places if (told := facts.ids[i]) is not None}
