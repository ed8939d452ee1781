"""What becomes of a shard that something has gone wrong with: `judge(folder, specs)`.

It is opened and read for two epochs as training reads it, then checked by ``mmfm data verify``.
Allowed are a clear error that names the shard, bad samples that are counted and replaced, and no
effect at all; every sample of the tar must be accounted for.
"""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmfm.data.pipeline import DataConfig, Pipeline, SourceConfig
from mmfm_prep.cli import main

OUTCOMES = ("refused", "stopped", "counted", "unaffected")
SOURCE = "set"


@dataclass
class Verdict:
    """`outcome`: one of OUTCOMES; `said`: the error, or the reasons with their counts; `problems`:
    what must not be.
    """

    outcome: str
    said: str
    problems: list[str] = field(default_factory=list)


def judge(folder: Path, shard: str, specs: Mapping[str, Any], listed: bool) -> Verdict:
    """Train on and verify the set in `folder`, whose tar `shard` is mutated; `listed`: its manifest
    and index are those of the good tar.
    """
    verdict = read(folder, shard, specs, listed)
    code, said = verified(folder)
    if "Traceback" in said:
        verdict.problems.append(f"verify: {said}")
    if code == 0 and (listed or verdict.outcome != "unaffected"):
        verdict.problems.append(f"{verdict.outcome} ({verdict.said}), but verify finds nothing")
    return verdict


def read(folder: Path, shard: str, specs: Mapping[str, Any], listed: bool) -> Verdict:
    """Two epochs of training on the set."""
    quarantine = folder / "quarantine.jsonl"
    config = DataConfig(
        sources={SOURCE: SourceConfig(path=str(folder))},
        global_batch_size=8,
        streams=1,
        workers=0,
        allow_rare_strata=True,
        max_bad_share=1.0,
    )
    try:
        pipeline = Pipeline(config, specs, seed=0, rank=0, world_size=1, quarantine=quarantine)
    except ValueError as error:
        named = shard in str(error) or f"{SOURCE} is empty" in str(error)
        return Verdict("refused", str(error), [] if named else ["shard not named"])
    samples = sum(stratum.samples for stratum in pipeline.order.strata)
    seen: set[str] = set()
    steps = iter(pipeline)
    try:
        for _ in range(-(-2 * samples // config.global_batch_size)):
            for batch in next(steps):
                seen.update(batch["sample_id"])
    except ValueError as error:
        return Verdict("stopped", str(error), [] if shard in str(error) else ["shard not named"])
    told = {json.loads(line)["sample"] for line in _lines(quarantine)}
    quarantine.unlink(missing_ok=True)
    index = pipeline.order.strata[0].manifest.index(0)
    keys, ignored = contents(folder / shard)
    if listed:  # what the manifest promises is what must be read
        good = {key: f"sample-{int(key[1:])}" for key in index.keys}
        keys, ignored = {key: keys.get(key, name) for key, name in good.items()}, 0
        told |= {key for key, name in good.items() if name in seen | told}

    problems = []
    lost = [
        key
        for key, name in keys.items()
        if not {f"{SOURCE}/{shard}/{key}", name, key} & (seen | told)
    ]
    if len(lost) > pipeline.order.ignored[SOURCE]:
        problems.append(f"neither read nor counted: {lost}")
    if index.header.ignored != ignored:
        problems.append(f"{ignored} members of no sample, {index.header.ignored} counted")
    reasons = [f"{n} × {reason}" for reason, n in sorted(pipeline.bad_counts.items())]
    reasons += [f"{ignored} members of no sample"] if ignored else []
    reasons += [f"{len(lost)} samples without a modality"] if lost else []
    return Verdict("counted" if reasons else "unaffected", ", ".join(reasons), problems)


def contents(tar: Path) -> tuple[dict[str, str], int]:
    """key ▶ id of the samples that tarfile finds, and how many members belong to none."""
    keys: dict[str, str] = {}
    ignored = 0
    with contextlib.suppress(tarfile.TarError), tarfile.open(tar) as archive:
        for member in archive:
            folder, slash, file = member.name.rpartition("/")
            stem, dot, ending = file.partition(".")
            if not member.isreg() or member.issparse() or not (stem and dot and ending):
                ignored += not member.isdir()
                continue
            key = f"{folder}{slash}{stem}"
            keys.setdefault(key, "")
            if ending == "json":
                with contextlib.suppress(ValueError, RecursionError, AttributeError):
                    keys[key] = str(json.loads(archive.extractfile(member).read()).get("id"))
    return keys, ignored


def verified(folder: Path) -> tuple[int, str]:
    """The exit code of ``mmfm data verify``, and what it says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = main(["verify", str(folder), "--workers=1"])
        except SystemExit as end:
            code = int(end.code or 0)
    return code, said.getvalue()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
