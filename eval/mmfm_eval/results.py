"""results.json: scores with the protocol that made them, hashed, written whole or not at all."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from mmfm.checkpoint import Weights
from mmfm.config import to_dict
from mmfm_eval.suite import SuiteConfig
from mmfm_eval.tasks.base import Score

LIBRARIES = (
    *("numpy", "pillow", "scikit-learn", "soundfile", "soxr", "timm", "tokenizers"),
    *("torch", "torchaudio", "torchvision", "transformers"),
)


@dataclass
class Results:
    """What an evaluation found: `model` and `protocol` as plain JSON, scores and details by task.

    `left_out[source]` counts, by reason, the samples of a source that could not be read.
    """

    model: dict[str, Any]
    suite: str
    protocol: dict[str, Any]
    scores: dict[str, list[Score]]
    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The mapping that results.json holds."""
        rows = [
            {
                "task": task,
                "metric": s.name,
                "value": s.value,
                "n": s.n,
                "ci95": None if s.ci95 is None else list(s.ci95),
                "chance": s.chance,
                "baseline": s.baseline,
                "baseline_name": s.baseline_name,
            }
            for task, scores in self.scores.items()
            for s in scores
        ]
        return {
            "model": self.model,
            "suite": self.suite,
            "protocol": self.protocol,
            "results": rows,
            "details": self.details,
            "left_out": self.left_out,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Results:
        """The results that `document` was made of."""
        scores: dict[str, list[Score]] = {}
        for row in document["results"]:
            fields = {k: v for k, v in row.items() if k not in ("task", "metric", "ci95")}
            ci95 = None if row["ci95"] is None else (row["ci95"][0], row["ci95"][1])
            scores.setdefault(row["task"], []).append(Score(row["metric"], ci95=ci95, **fields))
        return cls(scores=scores, **{k: v for k, v in document.items() if k != "results"})

    def to_json(self) -> str:
        return json.dumps(self.document(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def protocol(
    suite: SuiteConfig,
    *,
    checkpoint_sha256: str,
    digests: Mapping[str, str],
    weights: Weights,
    preprocessing: Mapping[str, Any],
    device: str,
) -> dict[str, Any]:
    """All that could change a score, with two hashes over it.

    `fingerprint` covers everything but where the data lie and what reads them; two evaluations with
    the same one, by the same code (`code_sha256`), must agree. `suite_fingerprint` leaves out the
    checkpoint, which of its weights, and its preprocessing: scores of two models may be compared
    where it is equal.
    """
    resolved = to_dict(suite)
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    same_place = {
        **resolved,
        "workers": None,
        "feature_cache": None,
        "sources": {
            name: {**source, "path": digests[name], "subset": None}  # the digest knows the subset
            for name, source in resolved["sources"].items()
        },
    }
    for transport in ("cache", "remote"):
        del same_place[transport]
    shared = {"suite": same_place, "mmfm": metadata.version("mmfm"), "libraries": versions}
    own = {
        "checkpoint": checkpoint_sha256,
        "weights": weights,
        "preprocessing": preprocessing,
        "device": device,
    }
    return {
        "fingerprint": digest({**shared, **own}),
        "suite_fingerprint": digest(shared),
        "suite": resolved,
        "mmfm": metadata.version("mmfm"),
        "code_sha256": code_digest(suite.tasks.values()),
        "checkpoint_manifest_sha256": checkpoint_sha256,
        "data_digests": dict(digests),
        "preprocessing_sha256": digest(preprocessing),
        "device": device,
        "libraries": versions,
        "interval": "95 % percentile bootstrap over groups, 1,000 resamples",
    }


def already(file: Path, wanted: Mapping[str, Any]) -> Results | None:
    """The results in `file` where the protocol `wanted` and the same code made them, else None."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        there = document["protocol"]
        if any(there[key] != wanted[key] for key in ("fingerprint", "code_sha256")):
            return None
        return Results.from_document(document)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def code_digest(tasks: Iterable[Any]) -> str:
    """sha256 over the code that can change a score: mmfm, mmfm_eval and the modules of `tasks`."""
    here = Path(__file__).parent
    library = Path(inspect.getfile(to_dict)).parent
    files = {*library.rglob("*.py"), *here.rglob("*.py")}
    files -= {*(library / "train").rglob("*.py"), *(here / "report").rglob("*.py")}
    files |= {Path(inspect.getfile(type(task))) for task in tasks}
    sums = sorted(hashlib.sha256(f.read_bytes()).hexdigest() for f in files)
    return hashlib.sha256("".join(sums).encode()).hexdigest()


def digest(value: Any) -> str:
    """sha256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def write_all(folder: Path, files: Mapping[str, str]) -> None:
    """Write the texts into `folder`: all are complete on disk before the first gets its name."""
    folder.mkdir(parents=True, exist_ok=True)
    ready = []
    try:
        for name, text in files.items():
            temporary = folder / f".{name}.{os.getpid()}.part"
            ready.append((temporary, folder / name))
            with temporary.open("w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
        for temporary, final in ready:
            temporary.replace(final)
    finally:
        for temporary, _ in ready:
            temporary.unlink(missing_ok=True)
