"""Whether a dataset is whole and can be read: what ``mmfm data verify`` does.

    mmfm data verify data/shop            # every picture, sound and text is decoded
    mmfm data verify data/shop --fast     # checksums, indexes, keys and ids only

A folder with manifest.json, or one of plain WebDataset tars. Samples are decoded by the transforms
that training uses, with their limits, so what is found here is what would be in its quarantine.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Column, Table

from mmfm.data.endings import Endings
from mmfm.data.index import ShardIndex, index_path
from mmfm.data.manifest import MANIFEST, Manifest
from mmfm.data.tar import build_index
from mmfm_prep.dataset.decoding import Decoder
from mmfm_prep.dataset.reading import ALL, read_one, worth
from mmfm_prep.errors import PrepError
from mmfm_prep.parallel import ALL_CORES, Execution, ordered_map
from mmfm_prep.progress import stdout_console, track
from mmfm_prep.writer import file_sha256

_PLACES = 3
_NUMBERED = re.compile(r"(.*?)(\d+)(\.tar)?")


@dataclass
class Seen:
    """What one shard holds; `problems`: (what is wrong, where). It travels between processes."""

    split: str
    problems: list[tuple[str, str]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    chosen: set[str] = field(default_factory=set)
    """The ids in histories."""


def verify(folder: Path, *, decode: bool = True, execution: Execution = ALL_CORES) -> int:
    """Print what is wrong with the dataset in `folder`; the number of problems. PrepError where
    there is none.
    """
    entries, endings = _entries(folder)
    work = partial(_check_shard, folder, endings=endings, decode=decode)
    results = ordered_map(work, entries, 1, worth(folder, execution))
    seen = list(track(results, "verify shards", len(entries)))
    problems = [problem for shard in seen for problem in shard.problems]
    problems += _across(seen)
    table = Table("problem", "times", Column("first", overflow="fold"))
    counts = Counter(what for what, _ in problems)
    for what, times in counts.most_common():
        first = [place for w, place in problems if w == what][:_PLACES]
        table.add_row(what, f"{times:,}", "\n".join(first))
    out = stdout_console()
    if problems:
        out.print(table)
    for line in _gaps(seen, [str(entry["name"]) for entry in entries]):
        out.print(line, soft_wrap=True)
    samples = sum(len(shard.keys) for shard in seen)
    verdict = f"{len(problems):,} problems" if problems else "no problem"
    how = "decoded" if decode else "listed"
    out.print(f"{folder}: {samples:,} samples in {len(seen):,} shards {how}, {verdict}")
    return len(problems)


def _entries(folder: Path) -> tuple[list[dict[str, Any]], Endings | None]:
    """The shards as the manifest lists them, and what holds which modality; of plain tars the
    names.
    """
    file = folder / MANIFEST
    if file.is_file():
        try:
            manifest = Manifest.from_json(file.read_bytes(), str(file), str(folder), None)
        except ValueError as error:
            raise PrepError(str(error)) from None
        return [dataclasses.asdict(shard) for shard in manifest.shards], manifest.endings
    tars = sorted(folder.glob("*.tar")) if folder.is_dir() else []
    if not tars:
        raise PrepError(f"{folder} is no dataset: it holds neither {MANIFEST} nor a .tar")
    return [{"name": tar.name, "split": ALL} for tar in tars], None


def _check_shard(
    folder: Path, entry: dict[str, Any], endings: Endings | None, decode: bool
) -> Seen:
    tar, name, seen = folder / entry["name"], entry["name"], Seen(entry["split"])
    if not tar.is_file():
        seen.problems.append(("shard is missing", name))
        return seen
    if "sha256" in entry and (tar.stat().st_size, file_sha256(tar)) != (
        entry["bytes"],
        entry["sha256"],
    ):
        seen.problems.append(("shard has another size or sha256 than the manifest says", name))
    try:
        index = build_index(tar, endings)
    except (ValueError, OSError) as error:
        seen.problems.append(("shard can't be read", str(error).replace(str(tar), name)))
        return seen
    if not len(index):
        seen.problems.append(("shard is empty", name))
    if "samples" in entry and index.header.modality_sets != entry["modality_sets"]:
        seen.problems.append(("shard holds other samples than the manifest says", name))
    seen.problems += [(what, name) for what in _index_problems(tar, index)]
    if index.header.ignored:
        seen.problems += [("file belongs to no sample", name)] * index.header.ignored
    _check_samples(tar, index, seen, Decoder() if decode else None)
    return seen


def _index_problems(tar: Path, index: ShardIndex) -> Iterator[str]:
    path = index_path(tar)
    if not path.is_file():
        return
    try:
        kept = ShardIndex.load(path)
    except ValueError:
        yield "index is broken: mmfm data index makes it anew"
        return
    same = kept.keys == index.keys and kept.header.modality_sets == index.header.modality_sets
    if not same or not np.array_equal(kept.offsets, index.offsets):
        yield "index is of another tar: mmfm data index makes it anew"


def _check_samples(tar: Path, index: ShardIndex, seen: Seen, decoder: Decoder | None) -> None:
    with tar.open("rb") as file:
        for i, key in enumerate(index.keys):
            place = f"{tar.name}/{key}"
            seen.keys.append(key)
            try:
                sample = read_one(file, tar.name, index, i, seen.split)
            except ValueError:
                seen.problems.append(("sample can't be read", place))
                continue
            if sample.metadata is None:
                seen.problems.append(("metadata is no JSON object", place))
            if "id" in sample.meta:
                seen.ids.append(sample.id)
            history = sample.meta.get("history")
            seen.chosen.update(map(str, history) if isinstance(history, list) else ())
            modality_set = index.set_names[index.set_codes[i]]
            if not modality_set:
                seen.problems.append(("sample has no modality", place))
            if decoder is not None:
                found = decoder.problems(sample, modality_set.split("+"))
                seen.problems += [(what, f"{place}{detail}") for what, detail in found]


def _across(seen: list[Seen]) -> Iterator[tuple[str, str]]:
    """Problems that only all shards together show."""
    ids = Counter(sample_id for shard in seen for sample_id in shard.ids)
    yield from (("id is there more than once", name) for name, n in ids.items() if n > 1)
    keys: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for shard in seen:
        keys[shard.split].update(shard.keys)
    for split, counts in keys.items():
        twice = (key for key, n in counts.items() if n > 1)
        yield from (("key is there more than once in its split", f"{split}/{k}") for k in twice)
    chosen = set().union(*(shard.chosen for shard in seen))
    yield from (("history names no sample", name) for name in sorted(chosen - ids.keys()))


def _gaps(seen: list[Seen], names: list[str]) -> Iterator[str]:
    """Holes in the numbers of keys and shards: no problem where samples were left out on the way,
    a loss where nobody knows why.
    """
    keys = [key for shard in seen for key in shard.keys]
    for what, listed in (("keys", keys), ("shards", names)):
        holes = [hole for numbers in _numbers(listed).values() for hole in _holes(numbers)]
        if holes:
            missing = sum(end - start - 1 for start, end in holes)
            first = ", ".join(f"{start}-{end}" for start, end in holes[:_PLACES])
            yield f"{missing:,} numbers are missing among the {what}, first between {first}"


def _numbers(names: Iterable[str]) -> dict[str, list[int]]:
    """The numbers at the ends of names, by what stands before them."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for name in names:
        if match := _NUMBERED.fullmatch(name):
            found[match[1]].add(int(match[2]))
    return {stem: sorted(numbers) for stem, numbers in found.items()}


def _holes(numbers: list[int]) -> list[tuple[int, int]]:
    return [(a, b) for a, b in pairwise(numbers) if b > a + 1]
