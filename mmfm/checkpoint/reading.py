"""One checkpoint, read and verified."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from safetensors import safe_open
from torch import Tensor

from mmfm.checkpoint.folder import best, latest
from mmfm.files import sha256

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
