"""Tags of tokens that mark where something begins, goes on and ends, written as BIO."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mmfm_prep.errors import PrepError

_BEGIN, _INSIDE = "B", "I"
_MEANINGS = {"B": _BEGIN, "S": _BEGIN, "U": _BEGIN, "I": _INSIDE, "E": _INSIDE, "L": _INSIDE}
_OUTSIDE = "O"


class Tags:
    """Reads the tags of one sentence after the other, and counts what it found.

    BIO, IOB1 (B- only where two of a kind meet), IOBES and BILOU become BIO: what goes on without
    having begun begins there. `counts`: the tags that were written; `repaired`: those that were
    made B-.
    """

    def __init__(self, scheme: Literal["bio", "plain"]) -> None:
        self.scheme = scheme
        self.counts: Counter[str] = Counter()
        self.repaired = 0
        self._begun = 0  # by B- where no neighbour of the kind asks for it: not IOB1
        self._refused = ""

    def read(self, told: Sequence[str]) -> list[str]:
        """The tags as they are written; ValueError where one is of no scheme."""
        written = list(told) if self.scheme == "plain" else self._bio(told)
        self.counts.update(written)
        return written

    def _bio(self, told: Sequence[str]) -> list[str]:
        written: list[str] = []
        begun = repaired = 0
        before = ""  # the kind that the token before belongs to
        for tag in told:
            mark, _, kind = tag.partition("-")
            if tag != _OUTSIDE and (mark not in _MEANINGS or not kind):
                self._refused = self._refused or tag
                raise ValueError("a tag is neither O nor B-… or I-…")
            if tag == _OUTSIDE:
                written.append(_OUTSIDE)
            elif _MEANINGS[mark] == _INSIDE and kind == before:
                written.append(f"{_INSIDE}-{kind}")
            else:
                written.append(f"{_BEGIN}-{kind}")
                repaired += _MEANINGS[mark] == _INSIDE
                begun += _MEANINGS[mark] == _BEGIN and kind != before
            before = kind
        self._begun += begun
        self.repaired += repaired
        return written

    def check(self, path: Path) -> None:
        """PrepError if no sentence could be read for its tags."""
        if self._refused and not self.counts:
            raise PrepError(
                f"{path}: tags such as {self._refused!r} mark no beginnings (B-…, I-…); "
                "scheme=plain takes them as they are, tag= names another column"
            )

    def message(self) -> str:
        """What was made of the tags; "" where they are what they were."""
        if not self.repaired:
            return ""
        if not self._begun:
            return f"tags are IOB1: {self.repaired:,} that began with I- were made B-"
        return f"tags: {self.repaired:,} went on with what hadn't begun and were made B-"
