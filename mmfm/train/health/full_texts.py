"""Texts that fill their encoder's input: what stood behind was cut off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmfm.types import Batch

SHARE = 0.01
FEWEST = 100
"""Fewer texts say nothing yet."""


class FullTexts:
    """``add`` every step's batches; ``warnings`` once for each modality of which more than `SHARE`
    of this rank's texts are as long as the encoder takes. One that fits exactly counts too.
    """

    def __init__(self, specs: Mapping[str, Mapping[str, Any]]) -> None:
        # With tags a long text comes in windows: nothing of it is lost.
        texts = {m: s for m, s in specs.items() if "tokenizer" in s and "tags" not in s}
        self._limits = {m: int(spec["max_length"]) for m, spec in texts.items()}
        self._seen: Counter[str] = Counter()
        self._full: Counter[str] = Counter()

    def add(self, micro_batches: Sequence[Batch]) -> None:
        """Count the texts of a step."""
        for batch in micro_batches:
            for modality, limit in self._limits.items():
                mask = batch.get(f"{modality}_mask")
                if mask is not None:
                    self._seen[modality] += len(mask)
                    self._full[modality] += int((mask.sum(1) >= limit).sum())

    def warnings(self) -> Iterator[str]:
        """What is to be said now."""
        for modality, limit in list(self._limits.items()):
            seen, full = self._seen[modality], self._full[modality]
            if seen >= FEWEST and full > SHARE * seen:
                del self._limits[modality]
                yield (
                    f"{100 * full / seen:.0f} % of the {modality}s fill the encoder's input and "
                    f"are cut behind it: model.encoders.{modality}.max_length = {limit}"
                )
