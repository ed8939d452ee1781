"""Shows what a dataset holds: what ``mmfm data inspect`` does.

Reads every sample, of a dataset with a manifest or of any folder of WebDataset tars, and prints
counts per split and modality set, bytes, durations, labels, texts, what is missing, and what the
held-out splits share with the others.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile
from rich.console import Console
from rich.table import Table

from mmfm_prep.errors import PrepError
from mmfm_prep.leaks import LeakCounter, show_leaks
from mmfm_prep.make import missing
from mmfm_prep.progress import track
from mmfm_prep.sample import AUDIO_ENDINGS, IMAGE_ENDINGS, all_texts

TOP = 8
"""How many names of a label are shown."""


@dataclass
class Cell:
    """What one split has of one modality set."""

    samples: int = 0
    bytes: int = 0
    seconds: list[float] = field(default_factory=list)


@dataclass
class Summary:
    """Everything that `inspect` prints."""

    cells: dict[tuple[str, str], Cell] = field(default_factory=lambda: defaultdict(Cell))
    labels: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    text_lengths: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    groups: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    ignored: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)
    leaks: LeakCounter = field(default_factory=LeakCounter)


def inspect(folder: Path) -> Summary:
    """Print what the dataset in `folder` holds, to stdout. PrepError where there is none."""
    manifest = _manifest(folder)
    wrong = missing(folder, manifest)
    if wrong:
        raise PrepError(f"{folder} is incomplete: {wrong}")
    summary = Summary()
    for shard in track(manifest["shards"], "read shards"):
        for name, files in read_samples(folder / shard["name"]):
            _add(summary, shard["split"], name, files)
    # A pipe has no width: 80 columns would break the names of splits.
    width = None if sys.stdout.isatty() else 120
    show(summary, manifest, Console(highlight=False, width=width))
    return summary


def read_samples(tar: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, ending ▶ content) of each sample of a WebDataset tar; PrepError where it can't be read,
    or where the files of a sample don't follow each other.
    """
    key = ""
    seen: set[str] = set()
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, slash, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if folder + slash + stem != key:
                    if files:
                        yield key, files
                    key, files = folder + slash + stem, {}
                    if key in seen:
                        raise PrepError(
                            f"{tar}: the files of {key!r} don't follow each other, or two samples "
                            "have that name: pack it anew with tar --sort=name"
                        )
                    seen.add(key)
                content = archive.extractfile(member)
                assert content is not None
                files[ending.lower()] = content.read()
    except (tarfile.TarError, OSError) as error:
        raise PrepError(f"{tar} is no readable tar: {error}") from None
    if files:
        yield key, files


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest of `folder`, or one made up for a folder that only holds tars."""
    path = folder / "manifest.json"
    if path.is_file():
        try:
            manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            for shard in manifest["shards"]:
                _ = shard["name"], shard["bytes"], shard["split"]
        except (ValueError, KeyError, TypeError) as error:
            raise PrepError(f"{path} is no manifest of mmfm: {error!r}") from None
        return manifest
    tars = sorted(folder.glob("*.tar")) if folder.is_dir() else []
    if not tars:
        raise PrepError(f"{folder} is no dataset: it holds neither manifest.json nor a .tar")
    shards = [{"name": t.name, "bytes": t.stat().st_size, "split": "all"} for t in tars]
    return {"shards": shards, "licence": "unknown", "command": "unknown (no manifest.json)"}


def _add(summary: Summary, split: str, name: str, files: Mapping[str, bytes]) -> None:
    metadata: dict[str, Any] = {}
    try:
        metadata = json.loads(files.get("json", b"{}"))
    except ValueError:
        summary.unreadable["json"] += 1
    texts = metadata.get("texts") or {}
    by_language = texts if isinstance(texts, dict) else {"": texts}
    if "txt" in files:
        by_language = {**by_language, "": [files["txt"].decode("utf-8", errors="replace")]}
    image = next((files[e] for e in IMAGE_ENDINGS if e in files), None)
    audio = next((files[e] for e in AUDIO_ENDINGS if e in files), None)
    history = metadata.get("history")
    present = {"audio": audio, "history": history, "image": image, "text": by_language}
    modality_set = "+".join(m for m, value in present.items() if value)
    cell = summary.cells[split, modality_set]
    cell.samples += 1
    cell.bytes += sum(map(len, files.values()))
    if audio:
        try:
            cell.seconds.append(soundfile.info(io.BytesIO(audio)).duration)
        except soundfile.SoundFileError:
            summary.unreadable["audio"] += 1
    known = {"json", "txt", *IMAGE_ENDINGS, *AUDIO_ENDINGS}
    summary.ignored.update(ending for ending in files if ending not in known)
    for label, value in (metadata.get("labels") or {}).items():
        summary.labels[label][str(value)] += 1
    for language, phrases in by_language.items():
        summary.text_lengths[language].extend(map(len, phrases))
    group = str(metadata.get("group", metadata.get("id", name)))
    summary.groups[split].add(group)
    summary.leaks.add(split, group, image=image, audio=audio, texts=all_texts(by_language))


def show(summary: Summary, manifest: Mapping[str, Any], console: Console) -> None:
    """Print `summary` as tables."""
    for key in ("command", "licence"):
        console.print(f"{key}: {manifest.get(key)}", soft_wrap=True, markup=False)
    console.print(_counts(summary))
    console.print(_labels(summary))
    console.print(_texts(summary))
    show_leaks(
        summary.leaks.report(manifest.get("held_out", ())),
        manifest.get("shared_by_design", ()),
        summary.leaks.ambiguous(),
        console,
    )
    for what, counter in (("not read (ending)", summary.ignored), ("broken", summary.unreadable)):
        if counter:
            console.print(f"{what}: " + ", ".join(f"{n:,} {k}" for k, n in counter.items()))
    notes = manifest.get("notes") or {}
    for reason, n in (notes.get("dropped") or {}).items():
        console.print(f"dropped when it was made: {n:,} {reason}")


def _counts(summary: Summary) -> Table:
    headers = ("split", "modality set", "samples", "groups", "MB", "audio min", "s each")
    table = _table(*headers)
    last = ""
    for (split, modality_set), cell in sorted(summary.cells.items()):
        total = sum(cell.seconds)
        spread = f"{min(cell.seconds):.1f}-{max(cell.seconds):.1f}" if cell.seconds else ""
        table.add_row(
            split,
            modality_set or "nothing",
            f"{cell.samples:,}",
            f"{len(summary.groups[split]):,}" if split != last else "",
            f"{cell.bytes / 1e6:.1f}",
            f"{total / 60:.1f}" if cell.seconds else "",
            spread,
        )
        last = split
    table.add_section()
    samples = sum(c.samples for c in summary.cells.values())
    size = sum(c.bytes for c in summary.cells.values()) / 1e6
    minutes = sum(sum(c.seconds) for c in summary.cells.values()) / 60
    every = len(set().union(*summary.groups.values()))
    table.add_row("all", "", f"{samples:,}", f"{every:,}", f"{size:.1f}", f"{minutes:.1f}", "")
    for modality in ("audio", "image", "text"):
        lacking = sum(c.samples for (_, s), c in summary.cells.items() if modality not in s)
        if lacking:
            table.add_row("", f"without {modality}", f"{lacking:,}", "", "", "", "")
    return table


def _labels(summary: Summary) -> Table:
    table = _table("label", "names", "most common (share of its samples)")
    for name, counter in sorted(summary.labels.items()):
        total = sum(counter.values())
        top = ", ".join(f"{v} {n / total:.0%}" for v, n in counter.most_common(TOP))
        more = f", and {len(counter) - TOP} more" if len(counter) > TOP else ""
        table.add_row(name, f"{len(counter):,}", top + more)
    return table


def _texts(summary: Summary) -> Table:
    table = _table("language", "texts", "characters: median", "longest")
    for language, lengths in summary.text_lengths.items():
        if lengths:
            middle = sorted(lengths)[len(lengths) // 2]
            table.add_row(
                language or "(not said)", f"{len(lengths):,}", f"{middle:,}", f"{max(lengths):,}"
            )
    return table


def _table(*headers: str) -> Table:
    table = Table(title_justify="left")
    text = ("split", "modality set", "label", "language", "most common (share of its samples)")
    for header in headers:
        table.add_column(header, justify="left" if header in text else "right", overflow="fold")
    return table
