"""What a run has learnt from before it began: by `init`, by teachers, and by theirs in turn.

A checkpoint may be anybody's, so its recipe is looked at with care: data sets are opened only where
they are folders on this machine that have a manifest.json. Whatever else it names is not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mmfm.checkpoint import Checkpoint
from mmfm.config import from_dict, to_dict
from mmfm.data.manifest import MANIFEST, Manifest
from mmfm.data.overlap import ID_LIMIT, common_sample, comparable
from mmfm.data.pipeline import SourceConfig
from mmfm.data.subset import subset_of
from mmfm.train.recipe import Recipe

BROKEN = (ValueError, OSError, yaml.YAMLError)


class Seen(NamedTuple):
    """The `test` source shares samples, `common` among them, with what came `before`, or why that
    is `unknown`; `labelled` where a head learnt the labels of what came before.
    """

    test: str
    before: str
    common: str | None
    labelled: bool = False
    unknown: str | None = None

    def told(self) -> str:
        """A sentence for the user."""
        if self.unknown is not None:
            asked = f"whether test.sources.{self.test} shares samples with {self.before}"
            return f"{asked} is not known: {self.unknown}"
        how = "fine-tuned" if self.labelled else "pretrained"
        return (
            f"test.sources.{self.test} shares samples with {self.before}, which was {how} on "
            f"them, {self.common!r} among them"
        )


def seen_before(
    recipe: Recipe, tested: Mapping[str, Manifest], found: Checkpoint | None = None
) -> list[Seen]:
    """All that the run's weights, or what teaches it, have seen of the `tested` sources before, or
    may have. `found`: the checkpoint that the run continues from.
    """
    result = []
    for before, labelled, manifest in _sources(recipe, found) if tested else ():
        for name, test in tested.items():
            if isinstance(manifest, str):
                result.append(Seen(name, before, None, unknown=manifest))
                continue
            try:
                common = common_sample(test, manifest)
                whole = comparable(test, manifest)
            except BROKEN as error:
                result.append(Seen(name, before, None, unknown=str(error)))
                continue
            if common is not None:
                result.append(Seen(name, before, common, labelled))
            elif not whole:
                why = f"one is at a URL, or they have more than {ID_LIMIT:,} samples"
                result.append(Seen(name, before, None, unknown=why))
    return result


def _sources(
    recipe: Recipe, found: Checkpoint | None
) -> Iterator[tuple[str, bool, Manifest | str]]:
    """(source of a checkpoint, whether with labels, its samples or why they are not known)."""
    left = [(Path(path), Path()) for path in _named(to_dict(recipe))]
    if found is not None:
        left += [(Path(path), _root(found)) for path in _named(found.config)]
    passed = set()
    while left:
        path, root = left.pop(0)
        try:
            checkpoint = Checkpoint.open(root / path, verify=False)
            config, root = checkpoint.config, _root(checkpoint)
        except BROKEN as error:
            yield str(path), False, str(error)
            continue
        if checkpoint.path in passed:
            continue
        passed.add(checkpoint.path)
        left += [(Path(path), root) for path in _named(config)]
        for name, settings in config["data"]["sources"].items():
            before = f"data.sources.{name} of {checkpoint.path}"
            try:
                yield before, "head" in config, _open(from_dict(SourceConfig, settings), root)
            except BROKEN as error:
                yield before, "head" in config, str(error)


def _named(config: Mapping[str, Any]) -> Iterator[str]:
    """The checkpoints that a recipe begins with or learns from."""
    if config.get("init"):
        yield config["init"]
    if config.get("teacher"):
        yield config["teacher"]["path"]
    for objective in (config.get("objectives") or {}).values():
        if isinstance(objective.get("teacher"), str):
            yield objective["teacher"]


def _root(checkpoint: Checkpoint) -> Path:
    """The folder in which the relative paths of its recipe meant what they say, as far as it can be
    told from where it lies now.
    """
    folder = Path(checkpoint.config["run"]["dir"])
    run = checkpoint.path.parent.parent
    if not folder.is_absolute() and run.parts[-len(folder.parts) :] == folder.parts:
        return Path(*run.parts[: -len(folder.parts)])
    return Path.cwd()


def _open(source: SourceConfig, root: Path) -> Manifest:
    folder = root.absolute() / source.path
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"there is no {MANIFEST} in {folder}")
    manifest = Manifest.open(str(folder), source.splits, source.modalities)
    if source.subset is None:
        return manifest
    if sum(shard.samples for shard in manifest.shards) > ID_LIMIT:
        raise ValueError(f"it is a part of more than {ID_LIMIT:,} samples")
    return subset_of(manifest, source.subset)
