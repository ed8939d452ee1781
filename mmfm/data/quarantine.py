"""Bad samples: counted by reason, listed in ``quarantine.jsonl``, an error when too many."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mmfm.data.transforms.base import BadSample

_FEWEST_SAMPLES = 1000  # a share is judged as if at least so many had been read


class BadRecord(NamedTuple):
    """What is kept of a bad sample: a reason out of few, its id, and what exactly was wrong."""

    reason: str
    sample_id: str
    detail: str

    @classmethod
    def of(cls, bad: BadSample) -> BadRecord:
        return cls(bad.reason, bad.sample_id, bad.detail)


class Quarantine:
    """Counts bad samples of one rank and appends them to the file at `path` (nowhere if None)."""

    def __init__(self, path: Path | None, rank: int) -> None:
        self.path = path
        self.rank = rank
        self.counts: Counter[str] = Counter()

    def add(self, records: Iterable[BadRecord], step: int | None) -> None:
        """Count `records`; each becomes one line (`step`: None in an evaluation).

        All ranks may append to the same file.
        """
        lines = []
        for record in records:
            self.counts[record.reason] += 1
            entry = {
                "rank": self.rank,
                "step": step,
                "sample": record.sample_id,
                "reason": record.reason,
                "detail": record.detail,
            }
            lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
        if self.path is None or not lines:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:  # one write for each line, so that lines of several ranks don't mix
            for line in lines:
                os.write(descriptor, line.encode("utf-8", "backslashreplace"))
        finally:
            os.close(descriptor)


def check_bad_share(bad: int, read: int, max_share: float) -> None:
    """ValueError if more than `max_share` of `read` samples were bad (sums over all ranks).

    Early in a run, a handful of bad samples is not yet a share: 1,000 samples count as read.
    """
    if bad > max_share * max(read, _FEWEST_SAMPLES):
        raise ValueError(
            f"{bad} of {read} samples were bad, more than data.max_bad_share = {max_share:g}; see "
            "quarantine.jsonl for which and why, mend the data or raise data.max_bad_share"
        )
