"""Writes samples into WebDataset shards, their indexes and manifest.json, all or nothing.

Everything goes into a hidden folder beside the target, which is renamed when it is complete: a
dataset folder is either whole or not there. Shards hold one split and one modality set each. Equal
samples give equal tars.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import webdataset

from mmfm.data.endings import modality_endings
from mmfm.data.index import index_path
from mmfm.data.tar import build_index
from mmfm_prep.errors import PrepError
from mmfm_prep.leaks import LeakCounter
from mmfm_prep.sample import Sample, all_texts, label_names

FORMAT = 1
_PARTIAL = ".partial"


class DatasetWriter:
    """Takes samples in any order and keeps one open shard for each (split, modality set)."""

    def __init__(self, folder: Path, samples_per_shard: int = 1024) -> None:
        self.folder = folder
        self.samples_per_shard = samples_per_shard
        self.leaks = LeakCounter()
        self._writers: dict[tuple[str, str], webdataset.ShardWriter] = {}
        self._shards: dict[str, dict[str, Any]] = {}
        self._labels: defaultdict[str, set[str]] = defaultdict(set)
        self._endings: defaultdict[str, set[str]] = defaultdict(set)
        self._ids: set[str] = set()
        self._keys: set[tuple[str, str]] = set()

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for writer in self._writers.values():
                writer.post = None  # what was cut short gets no index
        self.close()

    def write(self, sample: Sample) -> None:
        """Append one sample; PrepError where its id, or its key in the split, was there before."""
        if sample.id in self._ids:
            raise PrepError(f"two samples have the id {sample.id!r}: ids are unique in a dataset")
        if (sample.split, sample.key) in self._keys:
            raise PrepError(f"two samples of split {sample.split!r} have the key {sample.key!r}")
        self._ids.add(sample.id)
        self._keys.add((sample.split, sample.key))
        for modality, held in sample.others.items():
            self._endings[modality] |= set(held)
        place = (sample.split, sample.modality_set)
        if place not in self._writers:
            self._writers[place] = self._open(*place)
        writer = self._writers[place]
        writer.write(sample.files())
        name = Path(writer.fname).name
        shard = self._shards.setdefault(name, _shard(name, *place))
        shard["samples"] += 1
        shard["modality_sets"][sample.modality_set] += 1
        for name, values in label_names(sample.labels, sample.meta).items():
            self._labels[name].update(values)
        self.leaks.add(
            sample.split,
            sample.group,
            image=sample.digests.get("image", sample.image),
            audio=sample.digests.get("audio", sample.audio),
            texts=all_texts(sample.texts),
            others={m: b"".join(files) for m, files in sample.other_files().items()},
        )

    def close(self) -> None:
        """End the last shards."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def manifest(self, **header: Any) -> dict[str, Any]:
        """The manifest of what was written (`close` first), with `header` (command, licence, seed
        …) at its top.
        """
        shards = [self._shards[name] for name in sorted(self._shards)]
        totals: Counter[str] = Counter()
        for shard in shards:
            totals.update(shard["modality_sets"])
        return {
            "format": FORMAT,
            **header,
            "splits": sorted({s["split"] for s in shards}),
            "labels": {name: sorted(values) for name, values in sorted(self._labels.items())},
            **({"endings": self._own_endings()} if self._endings else {}),
            "totals": dict(sorted(totals.items())),
            "shards": shards,
        }

    def _own_endings(self) -> dict[str, list[str]]:
        """What holds the modalities that are not mmfm's own."""
        return {m: sorted(endings) for m, endings in sorted(self._endings.items())}

    def _open(self, split: str, modality_set: str) -> webdataset.ShardWriter:
        stem = f"{split}-{modality_set.replace('+', '_') or 'empty'}"
        return webdataset.ShardWriter(
            str(self.folder.absolute() / stem).replace("%", "%%") + "-%06d.tar",
            maxcount=self.samples_per_shard,
            verbose=0,
            post=self._ended,
            # Fixed owner and time: the same samples give the same bytes on any day and machine.
            user="mmfm",
            group="mmfm",
            mtime=0,
            encoder=False,
        )

    def _ended(self, name: str) -> None:
        path = Path(name)
        shard = self._shards[path.name]
        shard["bytes"], shard["sha256"] = path.stat().st_size, file_sha256(path)
        endings = modality_endings() | self._own_endings()
        build_index(path, endings).save(index_path(path))


def _shard(name: str, split: str, modality_set: str) -> dict[str, Any]:
    return {
        "name": name,
        "bytes": 0,
        "sha256": "",
        "samples": 0,
        "modality_sets": {modality_set: 0},
        "split": split,
    }


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    # Half a surrogate pair (a file name that is not UTF-8) becomes the escape that JSON has for it.
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        try:
            file.write(text.encode("utf-8", "backslashreplace"))
            file.close()
            os.chmod(file.name, 0o644)  # a temporary file is private
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target` that takes its place when the block ends well, and vanishes
    when it doesn't. What a killed process left of one is removed.
    """
    target = target.absolute()
    if target.exists() and not target.is_dir():
        raise PrepError(f"{target} is a file: name a folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target)
        temporary = Path(tempfile.mkdtemp(_PARTIAL, f".{target.name}.", target.parent))
    except OSError as error:
        raise PrepError(f"can't write beside {target}: {error.strerror}") from None
    handle = os.open(temporary, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)  # in use, for _remove_abandoned
    try:
        yield temporary
        temporary.chmod(0o755)
        if target.is_dir():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
            target.rename(old / target.name)
            temporary.rename(target)
            shutil.rmtree(old)
        else:
            temporary.rename(target)
    finally:
        os.close(handle)
        if temporary.exists():
            shutil.rmtree(temporary)


def _remove_abandoned(target: Path) -> None:
    for folder in target.parent.glob(f".{glob.escape(target.name)}.*{_PARTIAL}"):
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        except BlockingIOError:
            pass  # another process is at work in it
        finally:
            os.close(handle)
