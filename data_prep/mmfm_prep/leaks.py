"""Counts, and shows, what a held-out split shares with the splits that a model trains on.

Equal pictures, equal sounds, equal normalised texts and equal groups are counted. Some sharing is
the point of a split (a held-out drawing style shows the same concepts under the same names); an
equal picture or sound never is. So each count is given apart for equal content of the same group
and of another group.
"""

from __future__ import annotations

import hashlib
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

KINDS = ("image", "audio", "text", "group")

Leaks = dict[str, dict[str, dict[str, int]]]
"""Held-out split ▶ kind (image, audio, text, group, other modalities) ▶ counts of its samples:
same_group, other_group, of.
"""


def normalise(text: str) -> str:
    """`text` in lower case, NFKC, with its white space folded: what counts as the same caption."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def content_hash(data: bytes) -> str:
    """A short sha256 that stands for equal bytes."""
    return hashlib.sha256(data).hexdigest()[:24]


class LeakCounter:
    """Takes every sample once; `report` then compares the held-out splits with all the others.

    Memory: 16 bytes a sample for each kind that it has.
    """

    def __init__(self) -> None:
        # split ▶ kind ▶ (hash of the content, hash of the group) of each sample, flat
        self._seen: dict[str, defaultdict[str, array[int]]] = {}

    def add(
        self,
        split: str,
        group: str,
        *,
        image: bytes | None = None,
        audio: bytes | None = None,
        texts: Iterable[str] = (),
        others: Mapping[str, bytes] | None = None,
    ) -> None:
        """Note one sample: its picture and sound (encoded, or a digest of what is seen and heard),
        its texts (only the first names the sample), and what it has of other modalities.
        """
        kinds = self._seen.setdefault(split, defaultdict(lambda: array("Q")))
        name = group.encode("utf-8", "surrogatepass")
        owner = _hash(name)
        text = next((normalise(text).encode("utf-8", "surrogatepass") for text in texts), None)
        contents = {"image": image, "audio": audio, "text": text, "group": name}
        contents |= others or {}
        for kind, content in contents.items():
            if content:
                kinds[kind].extend((_hash(content), owner))

    @property
    def kinds(self) -> list[str]:
        """What is compared: `KINDS`, and the other modalities that there are."""
        return [*KINDS, *sorted({k for seen in self._seen.values() for k in seen} - set(KINDS))]

    def ambiguous(self) -> dict[str, dict[str, int]]:
        """Split ▶ kind ▶ samples whose picture, sound or first text is also that of another group.

        No model can tell these apart: they bound what a retrieval score can reach.
        """
        out: dict[str, dict[str, int]] = {}
        for split, kinds in sorted(self._seen.items()):
            for kind in (kind for kind in self.kinds if kind in kinds):
                contents, groups = _columns(kinds[kind])
                pairs = np.unique(np.stack([contents, groups], 1), axis=0)
                values, counts = np.unique(pairs[:, 0], return_counts=True)
                if n := int(np.isin(contents, values[counts > 1]).sum()):
                    out.setdefault(split, {})[kind] = n
        return out

    def between(self, held_out: Iterable[str]) -> dict[str, dict[str, int]]:
        """Split of `held_out` ▶ kind ▶ samples whose content another of them has too.

        What is tuned on one of these splits is not judged by another.
        """
        splits = sorted(s for s in held_out if s in self._seen)
        out: dict[str, dict[str, int]] = {}
        for kind in self.kinds:
            contents = {split: _columns(self._seen[split][kind])[0] for split in splits}
            for split in splits:
                others = [contents[other] for other in splits if other != split]
                known = np.concatenate(others) if others else _NONE
                if n := int(np.isin(contents[split], known).sum()):
                    out.setdefault(split, {})[kind] = n
        return out

    def report(self, held_out: Iterable[str]) -> Leaks:
        """For each split of `held_out` that has samples: what it shares with the union of the
        splits that aren't held out.
        """
        held_out = [s for s in held_out if s in self._seen]
        training = [kinds for split, kinds in self._seen.items() if split not in held_out]
        out: Leaks = {split: {} for split in held_out}
        for kind in self.kinds:
            there = [_columns(kinds[kind]) for kinds in training]
            known = np.concatenate([contents for contents, _ in there]) if there else _NONE
            owned = np.concatenate([_both(*columns) for columns in there]) if there else _NONE
            for split in held_out:
                contents, groups = _columns(self._seen[split][kind])
                elsewhere = np.isin(contents, known)
                same = np.isin(_both(contents, groups), owned)
                if len(contents):
                    out[split][kind] = {
                        "same_group": int(same.sum()),
                        "other_group": int((elsewhere & ~same).sum()),
                        "of": len(contents),
                    }
        return out


_NONE = np.empty(0, np.uint64)


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _columns(seen: array[int]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The hashes of contents, and those of their groups."""
    pairs = np.array(seen, np.uint64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _both(contents: NDArray[np.uint64], groups: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One number that stands for a content and its group."""
    return contents * np.uint64(0x9E3779B97F4A7C15) ^ groups


def show_leaks(
    leaks: Leaks,
    by_design: Collection[str],
    between: Mapping[str, Mapping[str, int]],
    ambiguous: Mapping[str, Mapping[str, int]],
    console: Console,
) -> None:
    """Print `leaks` as one table, and below it what of that is a leak and what is meant so.

    `by_design`: the kinds that the held-out splits are meant to share. `between`, `ambiguous`: as
    `LeakCounter` gives them.
    """
    if leaks:
        console.print("Held-out content that training has too, in the same group / in another:")
        table = Table()
        table.add_column("held-out split", overflow="fold")
        shown = dict.fromkeys([*KINDS, *(kind for kinds in leaks.values() for kind in kinds)])
        for header in ("samples", *shown):
            table.add_column(header, justify="right")
        for split, kinds in leaks.items():
            cells = [_cell(kinds.get(kind)) for kind in shown]
            table.add_row(split, f"{kinds['group']['of']:,}", *cells)
        console.print(table)
        for line in verdict(leaks, by_design):
            console.print(line, soft_wrap=True)
    for split, equal in between.items():
        if counts := _counts({k: n for k, n in equal.items() if k not in by_design}):
            console.print(f"{split}: shared with other held-out splits: {counts}", soft_wrap=True)
    for split, equal in ambiguous.items():
        told = f"samples equal to one of another group: {_counts(equal)}"
        console.print(f"{split}: {told}", soft_wrap=True)


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


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} by {kind}" for kind, n in counts.items())


def _cell(counts: Mapping[str, int] | None) -> str:
    return "–" if counts is None else f"{counts['same_group']:,} / {counts['other_group']:,}"
