"""Counts, and shows, what a held-out split shares with the splits that a model trains on.

Equal pictures, equal sounds, equal normalised texts and equal groups are counted. Some sharing is
the point of a split (a held-out drawing style shows the same concepts under the same names); an
equal picture or sound never is. So each count is given apart for equal content of the same group
and of another group.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from rich.console import Console
from rich.table import Table

KINDS = ("image", "audio", "text", "group")

Leaks = dict[str, dict[str, dict[str, int]]]
"""Held-out split ▶ kind (image, audio, text, group) ▶ counts of its samples: same_group,
other_group, of.
"""


def normalise(text: str) -> str:
    """`text` in lower case, NFKC, with its white space folded: what counts as the same caption."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def content_hash(data: bytes) -> str:
    """A short sha256 that stands for equal bytes."""
    return hashlib.sha256(data).hexdigest()[:24]


class LeakCounter:
    """Takes every sample once; `report` then compares the held-out splits with all the others."""

    def __init__(self) -> None:
        # split ▶ kind ▶ hash ▶ group ▶ number of samples
        self._seen: dict[str, dict[str, dict[str, dict[str, int]]]] = {}

    def add(
        self,
        split: str,
        group: str,
        *,
        image: bytes | None = None,
        audio: bytes | None = None,
        texts: Iterable[str] = (),
    ) -> None:
        """Note one sample: its encoded picture and sound, and its texts (only the first names the
        sample).
        """
        kinds = self._seen.setdefault(
            split,
            {k: defaultdict(lambda: defaultdict(int)) for k in KINDS},
        )
        if image:
            kinds["image"][content_hash(image)][group] += 1
        if audio:
            kinds["audio"][content_hash(audio)][group] += 1
        for text in texts:
            kinds["text"][normalise(text)][group] += 1
            break
        kinds["group"][group][group] += 1

    def ambiguous(self) -> dict[str, dict[str, int]]:
        """Split ▶ kind ▶ samples whose picture, sound or first text is also that of another group.

        No model can tell these apart: they bound what a retrieval score can reach.
        """
        out: dict[str, dict[str, int]] = {}
        for split, kinds in sorted(self._seen.items()):
            for kind, hashes in kinds.items():
                n = sum(sum(groups.values()) for groups in hashes.values() if len(groups) > 1)
                if n:
                    out.setdefault(split, {})[kind] = n
        return out

    def report(self, held_out: Iterable[str]) -> Leaks:
        """For each split of `held_out` that has samples: what it shares with the union of the other
        splits.
        """
        held_out = [s for s in held_out if s in self._seen]
        training = [kinds for split, kinds in self._seen.items() if split not in held_out]
        out: Leaks = {}
        for split in held_out:
            out[split] = {}
            for kind, hashes in self._seen[split].items():
                counts = {"same_group": 0, "other_group": 0, "of": 0}
                for value, groups in hashes.items():
                    elsewhere = {g for kinds in training for g in kinds[kind].get(value, ())}
                    for group, n in groups.items():
                        counts["of"] += n
                        if group in elsewhere:
                            counts["same_group"] += n
                        elif elsewhere:
                            counts["other_group"] += n
                if counts["of"]:
                    out[split][kind] = counts
        return out


def show_leaks(
    leaks: Leaks,
    by_design: Collection[str],
    ambiguous: Mapping[str, Mapping[str, int]],
    console: Console,
) -> None:
    """Print `leaks` as one table, and below it what of that is a leak and what is meant so.

    `by_design`: the kinds that the held-out splits are meant to share. `ambiguous`: as
    `LeakCounter.ambiguous` gives it.
    """
    if leaks:
        console.print("Held-out content that training has too, in the same group / in another:")
        table = Table()
        table.add_column("held-out split", overflow="fold")
        for header in ("samples", *KINDS):
            table.add_column(header, justify="right")
        for split, kinds in leaks.items():
            cells = [_cell(kinds.get(kind)) for kind in KINDS]
            table.add_row(split, f"{kinds['group']['of']:,}", *cells)
        console.print(table)
        for line in verdict(leaks, by_design):
            console.print(line, soft_wrap=True)
    for split, equal in ambiguous.items():
        counts = ", ".join(f"{n:,} by {kind}" for kind, n in equal.items())
        console.print(f"{split}: samples equal to one of another group: {counts}", soft_wrap=True)


def verdict(leaks: Leaks, by_design: Collection[str]) -> list[str]:
    """What `leaks` mean, as sentences."""
    found = [
        f"{counts['same_group'] + counts['other_group']:,} of {split} by {kind}"
        for split, kinds in leaks.items()
        for kind, counts in kinds.items()
        if kind not in by_design and counts["same_group"] + counts["other_group"]
    ]
    lines = [f"LEAK into the held-out splits: {', '.join(found)}" if found else "No leak."]
    if by_design:
        lines.append(
            f"Shared by design: {' and '.join(by_design)}. The held-out splits show known things "
            "in a way that is new; what must not be shared is the picture or the sound itself."
        )
    return lines


def _cell(counts: Mapping[str, int] | None) -> str:
    return "–" if counts is None else f"{counts['same_group']:,} / {counts['other_group']:,}"
