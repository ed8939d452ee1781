"""Indexes, and a manifest, for WebDataset tars that are there already: ``mmfm data index``.

    mmfm data index tars                                # once, instead of at the start of a run
    mmfm data index tars --manifest --split 'train=*-train.tar' --split 'val=*-val.tar'

With a manifest the tars have splits and checksums and can be read from a URL without being fetched
first. Labels are those of the samples' JSON.
"""

from __future__ import annotations

import fnmatch
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmfm.data.endings import Endings, endings_text, modality_endings
from mmfm.data.index import ShardIndex, find_index, index_path
from mmfm.data.manifest import MANIFEST
from mmfm.data.plain_tars import describes_file
from mmfm.data.tar import build_index
from mmfm_prep.dataset.reading import read_one, worth
from mmfm_prep.errors import PrepError
from mmfm_prep.parallel import ALL_CORES, Execution, ordered_map
from mmfm_prep.progress import say, track
from mmfm_prep.sample import label_names
from mmfm_prep.writer import FORMAT, write_json

TRAIN = "train"
_COMMAND = "mmfm data index DIR --manifest"


def index(
    folder: Path,
    *,
    manifest: bool = False,
    splits: Mapping[str, str] | None = None,
    licence: str = "unknown",
    others: Endings | None = None,
    execution: Execution = ALL_CORES,
) -> None:
    """Index every tar in `folder` whose index is missing or of another tar; write a `manifest` of
    them, with `splits` (name ▶ pattern of file names; all tars are ``train`` without).

    `others`: the endings of modalities that mmfm doesn't know. PrepError where there is none, one
    is damaged or in no split, or the folder's manifest is not one of plain tars.
    """
    tars = sorted(folder.glob("*.tar")) if folder.is_dir() else []
    if not tars:
        raise PrepError(f"{folder} holds no .tar")
    by_split = {tar.name: _split_of(tar, splits or {TRAIN: "*"}) for tar in tars}
    file = folder / MANIFEST
    if manifest and file.is_file() and _command(file) != _COMMAND:
        raise PrepError(f"{file} is there and not made by mmfm data index: it stays")
    work = partial(_index, labels=manifest, endings=modality_endings() | dict(others or {}))
    found = ordered_map(work, tars, 1, worth(folder, execution))
    shards: list[dict[str, Any]] = []
    names: defaultdict[str, set[str]] = defaultdict(set)
    made = 0
    for tar, (entry, labels, is_new) in zip(tars, track(found, "index", len(tars)), strict=True):
        made += is_new
        shards.append(entry | {"split": by_split[tar.name]})
        for label, values in labels.items():
            names[label] |= values
    say(f"{folder}: {len(tars):,} tars, {made:,} indexed, the others were")
    if not manifest:
        return
    totals: Counter[str] = Counter()
    for shard in shards:
        totals.update(shard["modality_sets"])
    about: dict[str, Any] = {
        "format": FORMAT,
        "command": _COMMAND,
        "licence": licence,
        "splits": sorted(set(by_split.values())),
        "labels": {name: sorted(values) for name, values in sorted(names.items())},
        **({"endings": {m: list(endings) for m, endings in others.items()}} if others else {}),
        "totals": dict(sorted(totals.items())),
        "held_out": sorted(set(by_split.values()) - {TRAIN}),
        "shards": shards,
    }
    write_json(file, about)
    say(f"{file}: {sum(totals.values()):,} samples, splits {', '.join(about['splits'])}")


def parse_endings(options: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """``["video=gif,mp4"]`` ▶ ``{"video": ("gif", "mp4")}``."""
    found = {}
    for option in options:
        name, equals, endings = option.partition("=")
        if not (name and equals and endings):
            raise PrepError(f"--modality {option}: write NAME=ENDINGS, as in video=gif,mp4")
        found[name] = tuple(endings.split(","))
    return found


def parse_splits(options: Sequence[str]) -> dict[str, str]:
    """``["val=val-*.tar"]`` ▶ ``{"val": "val-*.tar"}``."""
    found = {}
    for option in options:
        name, equals, pattern = option.partition("=")
        if not (name and equals and pattern):
            raise PrepError(f"--split {option}: write NAME=PATTERN, as in 'val=val-*.tar'")
        found[name] = pattern
    return found


def _split_of(tar: Path, splits: Mapping[str, str]) -> str:
    names = [name for name, pattern in splits.items() if fnmatch.fnmatch(tar.name, pattern)]
    if len(names) != 1:
        raise PrepError(f"{tar.name} is in {len(names)} splits ({', '.join(names)}), not in one")
    return names[0]


def _command(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8")).get("command")
    except (ValueError, AttributeError):
        return None


def _index(
    tar: Path, labels: bool, endings: Endings
) -> tuple[dict[str, Any], dict[str, set[str]], bool]:
    """The manifest's entry of a tar, the names of its `labels`, and whether it had no index."""
    kept = find_index(tar, partial(describes_file, tar, endings_text(endings)))
    try:
        found = build_index(tar, endings) if kept is None else ShardIndex.load(kept)
        if kept != index_path(tar):
            found.save(index_path(tar))
        names: defaultdict[str, set[str]] = defaultdict(set)
        with tar.open("rb") as file:
            for i in range(len(found) if labels else 0):
                sample = read_one(file, tar.name, found, i)
                for label, values in label_names(sample.labels, sample.meta).items():
                    names[label].update(map(str, values))
    except ValueError as error:
        raise PrepError(str(error)) from None
    entry = {
        "name": tar.name,
        "bytes": found.header.bytes,
        "sha256": found.header.sha256,
        "samples": found.header.samples,
        "modality_sets": found.header.modality_sets,
    }
    return entry, dict(names), kept is None
