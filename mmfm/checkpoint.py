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
the file ``latest`` beside it moves after that. ``best`` names the one with the best score of an
evaluation, and the score. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmfm import distributed

FORMAT = 2

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
    replaced. CheckpointError on every rank where one of them can't write: nothing of this
    checkpoint is left then, and the others are untouched.
    """
    final = folder / _name(step)
    hidden = folder / f".{final.name}.partial"
    rank, ranks = distributed.rank(), distributed.world_size()

    def begin() -> None:
        for left in folder.glob(".step_*"):  # by a run that was killed at it
            shutil.rmtree(left, ignore_errors=True)
        hidden.mkdir(parents=True)

    def finish() -> None:
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
        write_json(hidden / "manifest.json", manifest)
        for file in files:
            _sync(file)
            distributed.place.work += 1
        old = _hide(final) if final.exists() else None
        hidden.rename(final)
        _sync(folder)
        write_text(folder / "latest", final.name)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)

    _agree(_problem(begin) if distributed.is_main() else None, hidden)
    problem = None
    for kind, named in tensors.items():
        # Taken whole also after a problem: the tensors are gathered from all ranks.
        part = {}
        for name, tensor in named:
            part[name] = tensor.contiguous()
            distributed.place.work += 1
        path = hidden / f"{kind}-{rank + 1:05d}-of-{ranks:05d}.safetensors"
        if part and problem is None:
            problem = _problem(partial(_write_part, part, path))
    _agree(problem, hidden)
    _agree(_problem(finish) if distributed.is_main() else None, hidden)
    return final


def _name(step: int) -> str:
    return f"step_{step:08d}"


def _hide(checkpoint: Path) -> Path:
    """Out of the way in one step: one that is half deleted must not look whole."""
    return checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}.old"))


def _write_part(part: dict[str, Tensor], path: Path) -> None:
    save_file(part, path)
    _sync(path)  # here, as another machine can't flush what this one has in memory


def _problem(work: Callable[[], None]) -> str | None:
    """What went wrong with the disk in `work`, if anything did."""
    try:
        work()
    except (OSError, SafetensorError) as error:
        return str(error)
    return None


def _agree(problem: str | None, hidden: Path) -> None:
    """Where one rank has a problem, clean up and raise it on all of them; collective."""
    told = distributed.all_gather_object(problem)
    for rank, found in enumerate(told):
        if found is not None:
            if distributed.is_main():
                shutil.rmtree(hidden, ignore_errors=True)
            raise CheckpointError(
                f"a checkpoint can't be written to {hidden.parent} (rank {rank}: {found}); older "
                "ones are untouched: make room there, and the same command goes on from the newest"
            )


def check_writable(folder: Path) -> None:
    """CheckpointError where nothing can be written to `folder`, or it can't be made; leaves no
    trace.
    """
    # A link that leads nowhere is there, too.
    there = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise CheckpointError(f"nothing can be written to {folder}: {error}") from None


def mark_best(folder: Path, step: int, score: Mapping[str, Any]) -> None:
    """Let ``best`` name the checkpoint of `step`, with the `score` for which it is."""
    write_text(folder / "best", json.dumps({"checkpoint": _name(step), **score}))


def best(folder: Path) -> dict[str, Any] | None:
    """What ``best`` says: ``checkpoint``, its folder's name, and the score; None where it names no
    whole checkpoint.
    """
    marker = folder / "best"
    if not marker.is_file():
        return None
    told = json.loads(marker.read_text(encoding="utf-8"))
    assert isinstance(told, dict)
    return told if (folder / told["checkpoint"] / "manifest.json").is_file() else None


def prune(folder: Path, keep: int) -> None:
    """Delete all but the `keep` newest whole checkpoints below `folder`.

    Those that ``best`` and ``latest`` name stay, the latter also where a run that went back left
    higher numbers.
    """
    whole = sorted(p for p in folder.glob("step_*") if (p / "manifest.json").is_file())
    top = best(folder)
    stay = {latest(folder), None if top is None else folder / top["checkpoint"]}
    for old in whole[:-keep]:
        if old not in stay:
            shutil.rmtree(_hide(old), ignore_errors=True)


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
    distributed.place.work += 1
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace a small file in one step, so that a reader never sees half of it."""
    hidden = path.with_name(f".{path.name}.partial")
    hidden.write_text(text + "\n", encoding="utf-8")
    _sync(hidden)
    hidden.rename(path)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _find(path: Path) -> Path:
    if path.name == "best" and (top := best(path.parent)) is not None:
        path = path.with_name(top["checkpoint"])
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
