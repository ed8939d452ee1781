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
"""Those of the last step, or their averages over the training (`optim.ema`)."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, broken or of something else; the message says what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk. `manifest` is its manifest.json; `weights`: which a model has
    that is made from it.
    """

    path: Path
    manifest: dict[str, Any]
    weights: Weights = "model"

    @classmethod
    def open(cls, path: str | Path, verify: bool = True) -> Checkpoint:
        """Open a checkpoint's folder, or the latest one of a run's folder; ``/ema`` behind either
        means the averages of its weights.

        `verify` reads every file and compares its sha256. CheckpointError where one is missing or
        changed, or there are no averages.
        """
        path, averages = Path(path), False
        try:
            folder = _find(path)
        except CheckpointError:
            if path.name != "ema":
                raise
            folder, averages = _find(path.parent), True
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
        if averages and not any(name.startswith("ema-") for name in manifest["files"]):
            raise CheckpointError(
                f"{folder} has no averages of its weights: it was trained without optim.ema"
            )
        return cls(folder, manifest, "ema" if averages else "model")

    @property
    def named(self) -> Path:
        """What `open` takes for just this."""
        return self.path / "ema" if self.weights == "ema" else self.path

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

    def model_tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """The `weights` whose name starts with `prefix`, and the buffers: what doesn't train is its
        own average.
        """
        averages = self.tensors("ema", prefix) if self.weights == "ema" else {}
        return {**self.tensors("model", prefix), **averages}

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
