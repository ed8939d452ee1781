"""One measurement: what a worker process is told, and what it says."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(kw_only=True)
class Job:
    """`action`: prepare, rate, save or resume. `data`: folder of tars; `prepared`: the peer's own
    folder; `size`: pixels of a side; `done`: samples before the stop.
    """

    action: str
    peer: str
    data: str
    prepared: str
    samples: int
    size: int
    batch: int = 64
    workers: int = 0
    rank: int = 0
    world: int = 1
    decoding: str = "usual"
    done: int = 0
    meeting: str = ""
    """Folder where ranks wait for each other."""

    def dumps(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Job:
        return cls(**json.loads(text))
