"""Batches of the items that a caller gives: paths, arrays, PIL images, strings."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmfm.data.collate import collate
from mmfm.data.decode import Sample
from mmfm.data.reader import hash63
from mmfm.data.transforms.base import BadSample, Transform
from mmfm.types import Batch


def by_modality(
    inputs: Mapping[str, Sequence[Any]], known: Collection[str]
) -> dict[str, Sequence[Any]]:
    """`inputs` by the modality that each keyword means: ``image`` or ``images``.

    Raises:
        ValueError: for a modality that isn't known, one that is named twice, or what is no list.
    """
    found: dict[str, Sequence[Any]] = {}
    for keyword, items in inputs.items():
        modality = keyword if keyword in known else keyword.removesuffix("s")
        if modality not in known:
            raise ValueError(f"no modality {keyword!r}; the model has {', '.join(known)}")
        if modality in found:
            raise ValueError(f"{modality!r} is given twice")
        if isinstance(items, str | bytes | Path):  # a string would be taken letter by letter
            raise ValueError(f"{keyword} must be a list of items, not {type(items).__name__}")
        found[modality] = items
    return found


def check_none_missing(modality: str, listed: Sequence[Any]) -> None:
    """ValueError where an item is None, which would have no row in the answer."""
    for place, item in enumerate(listed):
        if item is None:
            raise ValueError(f"{modality} {place} is None: leave it out of the list")


def check_samples(given: Mapping[str, Sequence[Any]], read: Collection[str]) -> int:
    """The number of samples; ValueError where lists differ in length, or a sample has nothing of
    what is `read`.
    """
    lengths = {modality: len(items) for modality, items in given.items()}
    if len(set(lengths.values())) != 1:
        told = ", ".join(f"{n} of {m}" for m, n in lengths.items()) or "nothing"
        raise ValueError(
            f"a prediction is about samples: give lists of one length, with None for what a sample "
            f"lacks, not {told}"
        )
    samples = next(iter(lengths.values()))
    for place in range(samples):
        if not any(m in read and items[place] is not None for m, items in given.items()):
            raise ValueError(
                f"sample {place} has none of what the head reads: {', '.join(sorted(read))}"
            )
    return samples


def batches(
    given: Mapping[str, Sequence[Any]], transforms: Mapping[str, Transform], batch_size: int
) -> Iterator[Batch]:
    """Batches of the samples, whose ids are their places in the lists; None is left out.

    ValueError, or its kind BadSample, names the item that can't be used.
    """
    unused = np.random.default_rng(0)
    count = max((len(items) for items in given.values()), default=0)
    for start in range(0, count, batch_size):
        samples = []
        for place in range(start, min(start + batch_size, count)):
            name = str(place)
            sample = Sample(name, hash63(name), hash63(name), mask_seed=0, label=None)
            for modality, items in given.items():
                if items[place] is None:
                    continue
                transform = transforms[modality]
                try:
                    content = transform.content_of(items[place])
                    sample.inputs[modality] = transform.decode_content(content, unused, False)
                except BadSample as error:
                    where = _named(modality, place, items[place])
                    raise BadSample(error.reason, where, error.detail) from None
                except ValueError as error:
                    raise ValueError(f"{modality} {place}: {error}") from None
            samples.append(sample)
        yield collate(samples, transforms)


def _named(modality: str, place: int, item: Any) -> str:
    """``image 3 (cat.png)``, ``text 0 ('a cat')``, or ``audio 2`` where it has no name."""
    if isinstance(item, Path):
        return f"{modality} {place} ({item})"
    if not isinstance(item, str):
        return f"{modality} {place}"
    shown = item if len(item) <= 120 else f"{item[:60]}…{item[-60:]}"
    return f"{modality} {place} ({shown!r})"
