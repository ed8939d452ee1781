"""Checkpoints: folders of named tensors that are either whole or not there.

    step_00001000/
      manifest.json          step, samples_seen, sizes and sha256 of every file
      config.yaml            the complete recipe
      preprocessing.json     what the data pipeline must know of each modality, and the label names
      assets/<modality>/     tokenizer and the like
      model-*.safetensors    weights by parameter name, in fp32
      optimizer-*.safetensors  the optimiser's state by ``parameter/key``
      ema-*.safetensors      the average of the weights that train, where the recipe keeps one

Every rank writes its part of the tensors into a hidden folder, which is renamed when all is there;
the file ``latest`` beside it moves after that. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmfm import distributed

FORMAT = 1

Weights = Literal["model", "ema"]


class CheckpointError(ValueError):
    """A checkpoint that is missing, broken or of something else; the message says what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk. `manifest` is its manifest.json."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path, verify: bool = True) -> Checkpoint:
        """Open a checkpoint's folder, or the latest one of a run's folder.

        `verify` reads every file and compares its sha256. CheckpointError where one is missing or
        changed.
        """
        folder = _find(Path(path))
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder} has no readable manifest.json: {error}") from None
        if manifest.get("format") != FORMAT:
            raise CheckpointError(
                f"{folder} has format {manifest.get('format')!r}; this version reads {FORMAT}"
            )
        for name, entry in manifest["files"].items():
            file = folder / name
            if not file.is_file() or file.stat().st_size != entry["bytes"]:
                raise CheckpointError(f"{file} is missing or cut short; use another checkpoint")
            if verify and sha256(file) != entry["sha256"]:
                raise CheckpointError(f"{file} has changed since it was written (sha256)")
        return cls(folder, manifest)

    @property
    def step(self) -> int:
        return int(self.manifest["step"])

    @property
    def samples_seen(self) -> int:
        return int(self.manifest["samples_seen"])

    @property
    def config(self) -> dict[str, Any]:
        """The complete recipe as a plain mapping."""
        loaded = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
        assert isinstance(loaded, dict)
        return loaded

    @property
    def preprocessing(self) -> dict[str, Any]:
        """``specs`` by modality, and ``label``: [field, names] or null."""
        loaded = json.loads((self.path / "preprocessing.json").read_text(encoding="utf-8"))
        assert isinstance(loaded, dict)
        return loaded

    @property
    def assets(self) -> Path:
        return self.path / "assets"

    def weights(self, which: Weights = "model") -> dict[str, Tensor]:
        """Every weight and buffer: those of the last step, or with "ema" their averages, where what
        doesn't train is its own average.
        """
        averages = self.tensors("ema") if which == "ema" else {}
        if which == "ema" and not averages:
            raise CheckpointError(f"{self.path} has no averages: it was trained without optim.ema")
        return {**self.tensors("model"), **averages}

    def tensors(self, kind: str, prefix: str = "") -> dict[str, Tensor]:
        """All tensors of a kind ("model", "optimizer", "ema") whose name starts with `prefix`, on
        CPU.
        """
        found: dict[str, Tensor] = {}
        for name in self.manifest["files"]:
            if name.startswith(f"{kind}-") and name.endswith(".safetensors"):
                with safe_open(self.path / name, framework="pt") as file:
                    for key in file.keys():  # noqa: SIM118 (not a mapping)
                        if key.startswith(prefix):
                            found[key] = file.get_tensor(key)
        return found


def write(
    folder: Path,
    step: int,
    samples_seen: int,
    tensors: Mapping[str, Iterable[tuple[str, Tensor]]],
    write_files: Callable[[Path], None],
    extra: Mapping[str, Any],
) -> Path:
    """Write the checkpoint of `step` below `folder` and return its path; collective.

    `tensors`: kind ▶ this rank's part of the named tensors. `write_files` adds config, assets and
    the like, on rank 0. `extra` goes into the manifest. An existing checkpoint of the step is
    replaced.
    """
    final = folder / f"step_{step:08d}"
    hidden = folder / f".{final.name}.partial"
    if distributed.is_main():
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir(parents=True)
    distributed.barrier()
    rank, ranks = distributed.rank(), distributed.world_size()
    for kind, named in tensors.items():
        part = {name: tensor.contiguous() for name, tensor in named}
        if part:
            save_file(part, hidden / f"{kind}-{rank + 1:05d}-of-{ranks:05d}.safetensors")
    distributed.barrier()
    if distributed.is_main():
        write_files(hidden)
        files = sorted(p for p in hidden.rglob("*") if p.is_file())
        manifest = {
            "format": FORMAT,
            "step": step,
            "samples_seen": samples_seen,
            **extra,
            "files": {
                str(p.relative_to(hidden)): {"bytes": p.stat().st_size, "sha256": sha256(p)}
                for p in files
            },
        }
        write_text(hidden / "manifest.json", json.dumps(manifest, indent=1))
        for file in files:
            _sync(file)
        if final.exists():
            shutil.rmtree(final)
        hidden.rename(final)
        _sync(folder)
        write_text(folder / "latest", final.name)
    distributed.barrier()
    return final


def prune(folder: Path, keep: int) -> None:
    """Delete all but the `keep` newest whole checkpoints below `folder`.

    The one that ``latest`` names stays, also where a run that went back left higher numbers.
    """
    whole = sorted(p for p in folder.glob("step_*") if (p / "manifest.json").is_file())
    for old in whole[:-keep]:
        if old != latest(folder):
            shutil.rmtree(old)


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint below a folder of checkpoints; None without one."""
    marker = folder / "latest"
    if marker.is_file() and (folder / marker.read_text().strip() / "manifest.json").is_file():
        return folder / marker.read_text().strip()
    whole = sorted(p for p in folder.glob("step_*") if (p / "manifest.json").is_file())
    return whole[-1] if whole else None


def share_of_rank(sizes: Mapping[str, int], rank: int, world_size: int) -> Iterator[str]:
    """The names whose tensors this rank writes: the largest first, each to the rank with the least
    so far.
    """
    load = [0] * world_size
    for name in sorted(sizes, key=lambda n: (-sizes[n], n)):
        owner = load.index(min(load))
        load[owner] += sizes[name]
        if owner == rank:
            yield name


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace a small file in one step, so that a reader never sees half of it."""
    hidden = path.with_name(f".{path.name}.partial")
    hidden.write_text(text + "\n", encoding="utf-8")
    _sync(hidden)
    hidden.rename(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _find(path: Path) -> Path:
    if (path / "manifest.json").is_file():
        return path.resolve()
    if path.name == "latest" and path.is_file():
        path = path.parent
    for folder in (path / "checkpoints", path):
        newest = latest(folder) if folder.is_dir() else None
        if newest is not None:
            return newest.resolve()
    raise CheckpointError(
        f"there is no checkpoint in {path}: name a run's folder or a step_* in it"
    )
