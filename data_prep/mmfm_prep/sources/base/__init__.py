"""What a data source is.

A source is a module with a dataclass `Config(Source)`: its fields are the options of ``mmfm data
make`` and `samples` yields what goes into the shards. A module anywhere on the path is named with
its dots: ``mmfm data make my_package.my_source OUT``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mmfm_prep.parallel import Execution
from mmfm_prep.sample import Sample


@dataclass(kw_only=True)
class Source:
    """Base of every source's `Config`. The order of `samples` must depend on the options only."""

    licence: ClassVar[str] = "unknown"
    """The licences of everything in the set, for the manifest."""
    not_recorded: ClassVar[tuple[str, ...]] = ()
    """Options that don't change what is made (a cache folder, with its dots), left out of the
    manifest.
    """

    shared_by_design: ClassVar[tuple[str, ...]] = ()
    """What held-out splits are meant to share with the others (text, group): no leak."""

    seed: int = 0
    samples_per_shard: int = 1024

    notes: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    """What `samples` found worth knowing (samples dropped, with reasons, versions); goes into the
    manifest.
    """

    execution: Execution = field(default_factory=Execution, init=False, repr=False)
    """With how many processes, and where: changes nothing in what is made."""

    def __post_init__(self) -> None:
        if self.samples_per_shard < 1:
            raise ValueError(f"samples_per_shard = {self.samples_per_shard}: must be 1 or more")

    def samples(self) -> Iterator[Sample]:
        """Yield every sample of the set."""
        raise NotImplementedError

    def total(self) -> int | None:
        """The number of samples, where it is known before they are made (for the progress bar)."""
        return None

    def held_out(self) -> tuple[str, ...]:
        """The splits that no model may train on: leaks into them are counted."""
        return ()

    def finish(self, folder: Path) -> None:
        """Write what goes beside the shards (a tokenizer) into `folder`, after the last sample."""
