"""Runs a source and writes its dataset: what ``mmfm data make`` does."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, cast

from mmfm.config import Component, apply_overrides, component, component_type, to_dict
from mmfm_prep.errors import PrepError
from mmfm_prep.leaks import show_leaks
from mmfm_prep.parallel import Engine, Execution
from mmfm_prep.progress import console, say, track
from mmfm_prep.sources.base import Source
from mmfm_prep.sources.base.files import FilesSource
from mmfm_prep.stopping import check_stop
from mmfm_prep.writer import DatasetWriter, new_folder, write_json

SOURCES = "mmfm_prep.sources"


def source_config(name: str, overrides: Sequence[str] = ()) -> Source:
    """The `Config` of the source `name` with dotted `overrides` applied; ConfigError where they
    don't fit.
    """
    raw: dict[str, Any] = {}
    apply_overrides(raw, overrides)
    if "type" in raw:
        raise PrepError("the source's type is the argument SOURCE, not an option")
    config = component({"type": name, **raw}, Component(SOURCES), name)
    if not isinstance(config, Source):
        raise PrepError(
            f"source {name!r}: its Config must derive from mmfm_prep.sources.base.Source"
        )
    return config


def make(
    config: Source,
    target: Path,
    *,
    force: bool = False,
    workers: int | None = None,
    engine: Engine = "local",
) -> dict[str, Any]:
    """Make the dataset of `config` in the folder `target` and return its manifest.

    A complete dataset of the same options and input is left as it is. Another one, or an incomplete
    one, is an error unless `force` is set; a folder that holds something else is never replaced.
    `workers`, `engine`: as `Execution` has them.
    """
    recorded = recorded_options(config)
    work = target.absolute().parent / f".{target.name}.unfinished"
    config.execution = Execution(workers, engine, work)
    if engine != "local" and not isinstance(config, FilesSource):
        raise PrepError(f"{recorded['type']} is made on this machine: leave out --engine {engine}")
    if isinstance(config, FilesSource) and target.resolve().is_relative_to(config.input.resolve()):
        raise PrepError(f"{target} lies in {config.input}, which is read: name a folder elsewhere")
    there = existing(target)
    if there is not None and not force:
        wrong = difference(there, recorded) or missing(target, there) or changed(config, there)
        if wrong:
            raise PrepError(f"{target} is already there, but {wrong}; --force makes it anew")
        say(f"{target} is already there: {sum(there['totals'].values()):,} samples")
        return there
    start = time.monotonic()
    with _alone(work):
        if not force and existing(target) is not None:
            raise PrepError(f"{target} was made by another process meanwhile")
        manifest = _write(config, recorded, target)
    show_leaks(
        manifest["leaks"],
        config.shared_by_design,
        manifest["shared_held_out"],
        manifest["ambiguous"],
        console,
    )
    if isinstance(config, FilesSource) and not config.drop_leaks:
        shared = [kinds for split in manifest["leaks"].values() for kinds in split.items()]
        if any(kind != "group" and n["same_group"] + n["other_group"] for kind, n in shared):
            say("--drop-leaks leaves what is held out out of train")
    total = sum(manifest["totals"].values())
    seconds = time.monotonic() - start
    say(f"{target}: {total:,} samples in {len(manifest['shards'])} shards, {seconds:.1f} s")
    return manifest


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """The folder `work`, for this process alone. It is removed at the end, while the lock in it is
    held; after an error only if no completed chunk waits in it.
    """
    busy = PrepError(f"another process is making this dataset, in {work}")
    work.mkdir(parents=True, exist_ok=True)
    try:
        lock = os.open(work / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except FileNotFoundError:  # that process has just ended
        raise busy from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        if not os.fstat(lock).st_nlink:  # removed between the two calls
            raise busy
        try:
            yield
        except BaseException:
            if any(work.glob("*.chunk")):
                say(f"what is done waits in {work}: the same command goes on with it")
            else:
                shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work, ignore_errors=True)
    finally:
        os.close(lock)


def _forget(execution: Execution) -> None:
    """Remove what waits, which is of no use."""
    for chunk in execution.work.glob("*.chunk") if execution.work else ():
        chunk.unlink()


def _write(config: Source, recorded: Mapping[str, Any], target: Path) -> dict[str, Any]:
    with new_folder(target) as folder:
        name = recorded["type"]
        with DatasetWriter(folder, config.samples_per_shard) as writer:
            for sample in track(config.samples(), f"make {name}", config.total()):
                check_stop()
                writer.write(sample)
        config.finish(folder)
        manifest = writer.manifest(
            command=command(recorded, config),
            source=recorded,
            licence=config.licence,
            seed=config.seed,
            held_out=list(config.held_out()),
            shared_by_design=list(config.shared_by_design),
            leaks=writer.leaks.report(config.held_out()),
            shared_held_out=writer.leaks.between(config.held_out()),
            ambiguous=writer.leaks.ambiguous(),
            notes=config.notes,
        )
        if not manifest["shards"]:
            _forget(config.execution)
            left_out = sum(n["samples"] for n in config.notes.get("left_out", {}).values())
            why = f": all {left_out:,} were left out" if left_out else ""
            raise PrepError(f"source {name!r} with these options gives no sample{why}")
        write_json(folder / "manifest.json", manifest)
    return manifest


def recorded_options(config: Source) -> dict[str, Any]:
    """Type and options of a source as the manifest records them: all that decides what is made."""
    plain = json.loads(json.dumps(to_dict(config)))  # tuples become lists, as they are read back
    for name in config.not_recorded:
        *groups, last = name.split(".")
        reduce(getitem, groups, plain).pop(last)
    return {"type": component_type(config, SOURCES), **plain}


def command(recorded: Mapping[str, Any], config: Source) -> str:
    """The command line that makes the dataset: only options that differ from the defaults."""
    given = [
        shlex.quote(f"{key}={value if isinstance(value, str) else _yaml(value)}")
        for key, value in _changed_options(config, recorded)
        if key != "input"
    ]
    read = [shlex.quote(recorded["input"])] if "input" in recorded else []
    return " ".join(["mmfm data make", recorded["type"], *read, "OUT", *given])


def _changed_options(config: Any, recorded: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of the options that differ from their defaults."""
    for option in dataclasses.fields(config):
        if option.name not in recorded:  # it changes nothing in what is made
            continue
        value, plain = getattr(config, option.name), recorded[option.name]
        if dataclasses.is_dataclass(value):
            for name, inner in _changed_options(value, plain):
                yield f"{option.name}.{name}", inner
            continue
        default = option.default
        if option.default_factory is not dataclasses.MISSING:
            default = option.default_factory()
        if value != default:
            yield option.name, plain


def _yaml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace('"', "")


def existing(target: Path) -> dict[str, Any] | None:
    """The manifest of the dataset in `target`; None if the folder isn't there or is empty."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    path = target / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(manifest["shards"], list)
        assert isinstance(manifest["totals"], dict)
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise PrepError(
            f"{target} is there and isn't a dataset made by mmfm (no readable manifest.json): "
            "name another folder, or remove it yourself"
        ) from None
    return cast(dict[str, Any], manifest)


def difference(manifest: Mapping[str, Any], recorded: Mapping[str, Any]) -> str:
    """How the options of an existing dataset differ from those asked for; "" where they don't."""
    made = manifest.get("source") or {}
    parts = [
        f"{key} is {made.get(key)!r} there and {recorded.get(key)!r} was asked for"
        for key in [*recorded, *(k for k in made if k not in recorded)]
        if made.get(key) != recorded.get(key)
    ]
    return "; ".join(parts)


def changed(config: Source, manifest: Mapping[str, Any]) -> str:
    """Whether the files of an existing dataset's source changed since; "" where they didn't."""
    made = (manifest.get("notes") or {}).get("input_sha256")
    if not isinstance(config, FilesSource) or config.input_digest() == made:
        return ""
    return f"{config.input} (or a file that it names) changed since"


def missing(target: Path, manifest: Mapping[str, Any]) -> str:
    """What an existing dataset lacks by its manifest; "" where it is complete."""
    for shard in manifest["shards"]:
        path = target / shard["name"]
        if not path.is_file():
            return f"its shard {shard['name']} is missing"
        if path.stat().st_size != shard["bytes"]:
            return (
                f"its shard {shard['name']} has {path.stat().st_size} bytes, not {shard['bytes']}"
            )
    return ""
