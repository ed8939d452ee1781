"""What a run has drawn of each source and stratum by a step: like the order, a pure function of it.

``progress(order, steps)`` tells each source's samples and epochs, for the log and the plan;
``never_seen(order, steps)`` what of each stratum a run of so many steps leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmfm.data.order import Order
from mmfm.data.strata import Stratum


@dataclass(frozen=True)
class SourceProgress:
    """`drawn`: places that the source filled; `epochs`: that many divided by its `samples`."""

    source: str
    samples: int
    drawn: int

    @property
    def epochs(self) -> float:
        return self.drawn / self.samples


@dataclass(frozen=True)
class Unseen:
    """`never` of a stratum's `samples` are in no place."""

    source: str
    modality_set: str
    samples: int
    never: int


def progress(order: Order, steps: int) -> list[SourceProgress]:
    """Each source after `steps` steps, in the order of the config."""
    drawn = [0] * len(order.sources)
    samples = [0] * len(order.sources)
    for number, stratum in enumerate(order.strata):
        drawn[stratum.source] += order.streams * _draws(order, number, steps)
        samples[stratum.source] += stratum.samples
    names = [name for name, _, _ in order.sources]
    return [SourceProgress(*row) for row in zip(names, samples, drawn, strict=True)]


def never_seen(order: Order, steps: int) -> list[Unseen]:
    """The strata of which `steps` steps from the first on leave something out.

    Samples count as seen where they have a place; a bad one is replaced there.
    """
    found = []
    for number, stratum in enumerate(order.strata):
        draws = _draws(order, number, steps)
        if never := _unseen(order, stratum, draws):
            names = stratum.source_name, stratum.modality_set
            found.append(Unseen(*names, stratum.samples, never))
    return found


def _draws(order: Order, stratum: int, steps: int) -> int:
    """The draws of each stream from stratum number `stratum` in `steps` steps."""
    return order.round_robin.draws_before(stratum, steps * order.slots)


def _unseen(order: Order, stratum: Stratum, draws: int) -> int:
    if order.is_dealt(stratum):
        return max(0, stratum.samples - draws * order.streams)
    bounds = (order.bounds(stratum, stream) for stream in range(order.streams))
    return sum(max(0, high - low - draws) for low, high in bounds)
