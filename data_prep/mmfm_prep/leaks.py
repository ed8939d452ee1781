"""Counts what a held-out split shares with the splits that a model trains on.

Equal pictures, equal sounds, equal normalised texts and equal groups are counted. Some sharing is
the point of a split (a held-out drawing style shows the same concepts under the same names); an
equal picture or sound never is. So each count is given apart for equal content of the same group
and of another group.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

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
            {k: defaultdict(lambda: defaultdict(int)) for k in ("image", "audio", "text", "group")},
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
