"""What was trained on what, how long it took, and what it reached, in a few large numbers.

type: headline
title: What was trained on what
run: main
held_out: [unseen_art, unseen_voices]
figures:
  art: {label: …, run: main, suite: quickstart, task: …, metric: image_to_text_R@1}
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfm.config import from_dict
from mmfm.data.transforms.base import BadSample
from mmfm_eval.report.missing import Missing
from mmfm_eval.report.panels.base import Panel, PanelConfig
from mmfm_eval.report.samples import Samples
from mmfm_eval.report.scores import Entry, find
from mmfm_eval.report.template import render
from mmfm_eval.suite import SourceConfig

if TYPE_CHECKING:
    from mmfm_eval.report.context import Context
    from mmfm_eval.report.run import Run

_LOOKED_AT = 64
_PART = ("path", "splits", "modalities", "subset")
"""What a recipe says of which samples of a source are read."""


@dataclass(kw_only=True)
class Config(PanelConfig):
    """`held_out`: sources of the report that training never read; `figures`: large numbers."""

    run: str
    held_out: list[str] = field(default_factory=list)
    figures: dict[str, Entry] = field(default_factory=dict)

    def runs_read(self) -> list[str]:
        return [self.run, *(f.run for f in self.figures.values())]

    def sources_read(self) -> list[str]:
        return self.held_out

    def render(self, context: Context) -> Panel:
        run = context.run(self.run)
        html = render(
            __name__,
            figures=self._figures(context),
            facts=_facts(run),
            trained=_trained(run),
            held_out=[_described(context.samples(n)) for n in self.held_out],
            leaks=[leak for n in self.held_out for leak in _leaks(context.samples(n))],
        )
        return Panel(self.title, html)

    def _figures(self, context: Context) -> list[Any]:
        found = []
        for name, entry in self.figures.items():
            try:
                found.append(find(context, entry))
            except Missing:  # the table of scores says so with the command
                continue
            except ValueError as error:
                raise ValueError(f"figures.{name}: {error}") from None
        return found


def _facts(run: Run) -> list[tuple[str, str]]:
    """(what, value) of the run, in the order in which they are shown."""
    counts = _parameters(run)
    facts = [
        ("parameters", _millions(sum(counts.values()))),
        ("of them trained", _millions(counts["trained"])),
        ("steps", f"{run.checkpoint.step:,}"),
        ("samples seen", f"{run.checkpoint.samples_seen:,}"),
        ("time in steps", _minutes(run)),
        ("machine", _machine(run)),
        ("seed", str(run.recipe["run"]["seed"])),
    ]
    return [(what, value) for what, value in facts if value]


def _parameters(run: Run) -> Counter[str]:
    """Numbers of the weights in the latest checkpoint: "frozen" and "trained"."""
    encoders = run.recipe["model"]["encoders"]
    frozen = tuple(f"model.encoders.{m}." for m, e in encoders.items() if e.get("frozen"))
    counts: Counter[str] = Counter()
    for name, tensor in run.checkpoint.tensors("model").items():
        counts["frozen" if name.startswith(frozen) and frozen else "trained"] += tensor.numel()
    return counts


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count:,}"


def _minutes(run: Run) -> str:
    """Time between the steps that were logged: neither start nor evaluation is in it."""
    rows = list(run.training.values())
    batch = run.recipe["data"]["global_batch_size"]
    speeds = np.array([row["samples_per_s"] for row in rows if row.get("samples_per_s")])
    if not len(speeds):
        return ""
    seconds = run.checkpoint.step * batch / float(np.median(speeds))
    return f"about {seconds / 60:.1f} min" if seconds >= 90 else f"about {seconds:.0f} s"


def _machine(run: Run) -> str:
    ranks = len(list(run.checkpoint.path.glob("model-*.safetensors")))
    device = run.environment.get("cuda") or run.environment.get("device") or "unknown"
    many = f"{ranks} processes" if ranks > 1 else "1 process"
    return f"{str(device).upper()}, {many}"


def _trained(run: Run) -> list[dict[str, Any]]:
    """The sources of the recipe; of one that is no longer there only what the recipe says."""
    found = []
    for name, source in run.recipe["data"]["sources"].items():
        try:
            part = {key: source[key] for key in _PART if source.get(key) is not None}
            samples = Samples(name, from_dict(SourceConfig, part, f"data.sources.{name}"))
        except Missing:
            splits = _short(source.get("splits") or [])
            found.append({"name": name, "splits": splits, "sets": {}, "speech": []})
            continue
        found.append(_described(samples))
    return found


def _described(samples: Samples) -> dict[str, Any]:
    """Splits, samples by modality set, and the kinds of speech in a source."""
    sets: Counter[str] = Counter()
    for shard in samples.manifest.shards:
        sets.update(shard.modality_sets)
    splits = list(dict.fromkeys(s.split for s in samples.manifest.shards if s.split))
    return {
        "name": samples.name.replace("_", " "),
        "splits": _short(splits),
        "sets": {" + ".join(k.split("+")): n for k, n in sets.items() if k and n},
        "speech": _speech(samples),
    }


def _short(splits: list[str]) -> list[str]:
    """The splits without the first word that they share."""
    parts = [s.partition("-") for s in splits]
    shared = len(splits) > 1 and len({p[:2] for p in parts}) == 1 and parts[0][1] != ""
    return [p[2] for p in parts] if shared else splits


def _speech(samples: Samples) -> list[str]:
    """The kinds of speech that the metadata of a spread of samples name."""
    kinds = set()
    for shard, described in enumerate(samples.manifest.shards):
        if not any("audio" in s for s, count in described.modality_sets.items() if count):
            continue
        shown = np.flatnonzero(samples.manifest.index(shard).has_some())
        for at in np.linspace(0, len(shown) - 1, _LOOKED_AT).round().astype(int):
            with suppress(BadSample):  # training counts it, in quarantine.jsonl
                kinds.add(samples.at(shard, int(shown[at])).meta.get("speech"))
    return sorted(str(k) for k in kinds if k)


def _leaks(samples: Samples) -> list[dict[str, Any]]:
    """What of a held-out split stands in training too, as the data set's maker counted it."""
    found = []
    counted = samples.about.get("leaks", {})
    for split in dict.fromkeys(s.split for s in samples.manifest.shards):
        for kind in ("image", "audio"):
            if kind in counted.get(split, {}):
                row = counted[split][kind]
                shared = row["same_group"] + row["other_group"]
                found.append({"split": split, "kind": kind, "shared": shared, "of": row["of"]})
    return found
