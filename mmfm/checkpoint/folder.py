"""A folder of checkpoints: which is the newest, which the best, which may go."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmfm.files import write_text


def name_of(step: int) -> str:
    """The name of the checkpoint of `step`."""
    return f"step_{step:08d}"


def mark_best(folder: Path, step: int, score: Mapping[str, Any]) -> None:
    """Let ``best`` name the checkpoint of `step`, with the `score` for which it is."""
    write_text(folder / "best", json.dumps({"checkpoint": name_of(step), **score}))


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
            shutil.rmtree(hide(old), ignore_errors=True)


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint below a folder of checkpoints; None without one."""
    marker = folder / "latest"
    if marker.is_file() and (folder / marker.read_text().strip() / "manifest.json").is_file():
        return folder / marker.read_text().strip()
    whole = sorted(p for p in folder.glob("step_*") if (p / "manifest.json").is_file())
    return whole[-1] if whole else None


def hide(checkpoint: Path) -> Path:
    """Out of the way in one step: one that is half deleted must not look whole."""
    return checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}.old"))
