"""Runs a source and writes its dataset: what ``mmfm data make`` does."""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, cast

from mmfm.config import Component, apply_overrides, component, component_type, to_dict
from mmfm_prep.errors import PrepError
from mmfm_prep.leaks import show_leaks
from mmfm_prep.progress import console, say, track
from mmfm_prep.sources.base import Source
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


def make(config: Source, target: Path, *, force: bool = False) -> dict[str, Any]:
    """Make the dataset of `config` in the folder `target` and return its manifest.

    A complete dataset of the same options is left as it is. Another one, or an incomplete one, is
    an error unless `force` is set; a folder that holds something else is never replaced.
    """
    recorded = recorded_options(config)
    there = existing(target)
    if there is not None and not force:
        wrong = difference(there, recorded) or missing(target, there)
        if wrong:
            raise PrepError(f"{target} is already there, but {wrong}; --force makes it anew")
        say(f"{target} is already there: {sum(there['totals'].values()):,} samples")
        return there
    start = time.monotonic()
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
            ambiguous=writer.leaks.ambiguous(),
            notes=config.notes,
        )
        if not manifest["shards"]:
            raise PrepError(f"source {name!r} with these options gives no sample")
        write_json(folder / "manifest.json", manifest)
    show_leaks(manifest["leaks"], config.shared_by_design, manifest["ambiguous"], console)
    total = sum(manifest["totals"].values())
    seconds = time.monotonic() - start
    say(f"{target}: {total:,} samples in {len(manifest['shards'])} shards, {seconds:.1f} s")
    return manifest


def recorded_options(config: Source) -> dict[str, Any]:
    """Type and options of a source as the manifest records them: all that decides what is made."""
    options = {k: v for k, v in to_dict(config).items() if k not in config.not_recorded}
    plain = json.loads(json.dumps(options))  # tuples become lists, as they will be read back
    return {"type": component_type(config, SOURCES), **plain}


def command(recorded: Mapping[str, Any], config: Source) -> str:
    """The command line that makes the dataset: only options that differ from the defaults."""
    default: dict[str, Any] = {}
    for option in dataclasses.fields(config):
        if option.default_factory is not dataclasses.MISSING:
            default[option.name] = option.default_factory()
        elif option.default is not dataclasses.MISSING:
            default[option.name] = option.default
    groups = {key: to_dict(value) for key, value in default.items() if is_dataclass(value)}
    flat = {key: value for key, value in recorded.items() if key not in ("type", "input", *groups)}
    for group, inner in groups.items():  # media.image_longest=512
        default |= {f"{group}.{key}": value for key, value in inner.items()}
        flat |= {f"{group}.{key}": value for key, value in recorded[group].items()}
    given = [
        shlex.quote(f"{key}={value if isinstance(value, str) else _yaml(value)}")
        for key, value in flat.items()
        if key not in default or default[key] != value
    ]
    read = [shlex.quote(recorded["input"])] if "input" in recorded else []
    return " ".join(["mmfm data make", recorded["type"], *read, "OUT", *given])


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
