"""What a run has learnt from before it began: by `init`, by teachers, and by theirs in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mmfm.checkpoint import Checkpoint
from mmfm.config import from_dict, to_dict
from mmfm.data.manifest import Manifest
from mmfm.data.pipeline import SourceConfig
from mmfm.train.recipe import Recipe


class Before(NamedTuple):
    """A source that a checkpoint was trained on, before the run or for its teacher; `labelled`
    where a head learnt its labels. `manifest` is None where it can't be opened any more, `why`
    says more.
    """

    where: str
    labelled: bool
    manifest: Manifest | None
    why: str = ""


def trained_before(recipe: Recipe) -> Iterator[Before]:
    """All sources of all checkpoints that the run's weights come from, or that teach it."""
    left, seen = list(_named(to_dict(recipe))), set()
    while left:
        path = left.pop(0)
        try:
            found = Checkpoint.open(path, verify=False)
        except ValueError as error:
            yield Before(path, False, None, str(error))
            continue
        if found.path in seen:
            continue
        seen.add(found.path)
        config = found.config
        left += _named(config)
        for name, settings in config["data"]["sources"].items():
            where, labelled = f"data.sources.{name} of {found.path}", "head" in config
            try:
                manifest = recipe.data.open(from_dict(SourceConfig, settings))
            except ValueError as error:
                yield Before(where, labelled, None, str(error))
            else:
                yield Before(where, labelled, manifest)


def _named(config: Mapping[str, Any]) -> Iterator[str]:
    """The checkpoints that a recipe begins with or learns from."""
    if config.get("init"):
        yield config["init"]
    if config.get("teacher"):
        yield config["teacher"]["path"]
    for objective in (config.get("objectives") or {}).values():
        if isinstance(objective.get("teacher"), str):
            yield objective["teacher"]
