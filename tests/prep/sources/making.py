"""Runs `mmfm data make` and reads what it made, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmfm_prep.cli import main
from tests.prep.making.test_media import TONE, clip, encoded, noise
from tests.prep.reading import read_samples


def make(*words: object) -> int:
    """The exit code; one process, which is quicker for so little."""
    return main(["make", *map(str, words), "--workers", "1"])


def dataset(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The manifest, and all samples by id: their JSON, split and files."""
    manifest = json.loads((folder / "manifest.json").read_text())
    found: dict[str, dict[str, Any]] = {}
    for shard in manifest["shards"]:
        for key, files in read_samples(folder / shard["name"]):
            about = json.loads(files.pop("json"))
            found[about["id"]] = {**about, "key": key, "split": shard["split"], "files": files}
    return manifest, found


def reasons(manifest: dict[str, Any]) -> dict[str, list[str]]:
    """Reason ▶ the first places that were left out for it."""
    return {reason: e["first"] for reason, e in manifest["notes"]["left_out"].items()}


def picture(path: Path, number: int = 0) -> bytes:
    """Write a picture of its own for each number; its bytes."""
    data = encoded(noise(20 + number, 15), "JPEG" if path.suffix == ".jpg" else "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


def sound(path: Path, number: int = 0) -> bytes:
    """Write a sound of its own for each number; its bytes."""
    data = clip(TONE * (number + 1) / 20)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data
