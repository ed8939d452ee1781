"""A checkpoint that all ranks write: whole, or not there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mmfm import distributed
from mmfm.checkpoint.folder import hide, name_of
from mmfm.checkpoint.reading import FORMAT, CheckpointError
from mmfm.files import sha256, sync, write_json, write_text


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
    checkpoint is left then, but a whole one where only ``latest`` could not be written; the others
    are untouched.
    """
    final = folder / name_of(step)
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
            sync(file)
            distributed.place.work += 1
        old = hide(final) if final.exists() else None
        hidden.rename(final)
        sync(folder)
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


def _write_part(part: dict[str, Tensor], path: Path) -> None:
    save_file(part, path)
    sync(path)  # here, as another machine can't flush what this one has in memory


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
