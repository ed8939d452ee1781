"""Masked pictures, spectrograms and captions of held-out samples beside what a model with masked
objectives makes of them.

    type: reconstructions
    title: What is hidden, and what the model makes of it
    run: masked
    source: pairs
    captions: unseen_art

Where the loss is on normalised patches the model says nothing of a patch's mean and deviation;
those of the original are put in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmfm.data.reader import RawSample
from mmfm.objectives.base import Reconstruction
from mmfm.types import Batch, Features, to_device
from mmfm_eval.report import media
from mmfm_eval.report.missing import Missing
from mmfm_eval.report.panels.base import Panel, PanelConfig, check_count
from mmfm_eval.report.template import render

if TYPE_CHECKING:
    from mmfm.predictor import Predictor
    from mmfm_eval.report.context import Context

_HIDDEN = 0.62
_KINDS = ["picture", "spectrogram", "caption"]


@dataclass(kw_only=True)
class Config(PanelConfig):
    """`shown` samples of `source`, with the masks that evaluation gives them; texts are shown of
    the source `captions`, where another one has longer ones.
    """

    run: str
    source: str
    captions: str | None = None
    shown: int = 6

    def __post_init__(self) -> None:
        check_count(self.shown, "shown")

    def runs_read(self) -> list[str]:
        return [self.run]

    def sources_read(self) -> list[str]:
        return [self.source, *([self.captions] if self.captions else [])]

    @torch.no_grad()
    def render(self, context: Context) -> Panel:
        predictor = context.predictor(self.run)
        task: Any = predictor.task
        objectives = [o for o in task.objectives.values() if hasattr(o, "reconstruct")]
        if not objectives:
            raise Missing(f"Run {self.run} has no masked objective: its recipe names none.")
        blocks = [self._block(context, o) for o in objectives]
        shown = sorted((b for b in blocks if b), key=lambda b: _KINDS.index(b["kind"]))
        html = render(__name__, blocks=shown, seed=context.config.seed)
        return Panel(self.title, html)

    def _block(self, context: Context, objective: Any) -> dict[str, Any] | None:
        """What one objective makes of its samples; None where they lack its modality."""
        predictor, modality = context.predictor(self.run), objective.modality
        read = objective.reads[0]
        kind = _kind(predictor.specs[modality])
        source = self.captions if kind == "caption" and self.captions else self.source
        raws = self._draw(context, source, set(read.modalities))
        task: Any = predictor.task
        batch = task.prepare(to_device(context.batch(self.run, raws), predictor.device))
        found = task.features(batch, objective.reads)[read]
        if modality not in found.masked:
            return None
        made = objective.reconstruct({read: found})
        there = {m for raw in raws for m in raw.modalities}
        return {
            "kind": kind,
            "ratio": task.mask_ratios[modality],
            "context": [m for m in read.modalities if m != modality and m in there],
            "normalised": getattr(objective, "normalise", False),
            "samples": self._samples(context, modality, raws, batch, found, made),
        }

    def _draw(self, context: Context, source: str, modalities: set[str]) -> list[RawSample]:
        """Samples with as many of the modalities as any has, by lot."""
        samples = context.samples(source)
        ids = sorted(samples.places)
        order = context.rng("reconstructions").permutation(len(ids))
        raws = [samples.read(ids[i]) for i in order[: 12 * self.shown]]
        raws.sort(key=lambda raw: -len(modalities & set(raw.modalities)))  # stable: the lot decides
        return raws[: self.shown]

    def _samples(
        self,
        context: Context,
        modality: str,
        raws: Sequence[RawSample],
        batch: Batch,
        found: Features,
        made: Reconstruction,
    ) -> list[dict[str, Any]]:
        predictor = context.predictor(self.run)
        kind = _kind(predictor.specs[modality])
        items = []
        for row, sample in enumerate(found.rows[modality].tolist()):
            one = Reconstruction(*(part[row].cpu() for part in made))
            if kind == "picture":
                item: dict[str, Any] = _picture(one, predictor.specs[modality])
            elif kind == "spectrogram":
                real = predictor.model.encoder(modality).token_valid(
                    batch[modality], batch.get(f"{modality}_mask")
                )
                item = _spectrogram(one, int(real[row].sum()), predictor, modality)
            else:
                valid = batch[f"{modality}_mask"][row].cpu()
                item = {"words": _words(one, valid, context, self.run, modality)}
            items.append({**item, "name": context.name(self.run, raws[sample])})
        return items


def _kind(spec: dict[str, Any]) -> str:
    """How a modality is drawn, by what its encoder says of its inputs."""
    if "vocab_size" in spec:
        return "caption"
    return "spectrogram" if "sample_rate" in spec else "picture"


def _picture(one: Reconstruction, spec: dict[str, Any]) -> dict[str, Any]:
    """The masked picture, the masked patches filled in, the original."""
    side = round(len(one.masked) ** 0.5)
    patch = spec["size"] // side
    mean, deviation = np.array(spec["mean"]), np.array(spec["std"])

    def whole(patches: NDArray[Any]) -> NDArray[Any]:
        grid = patches.reshape(side, side, patch, patch, 3).transpose(0, 2, 1, 3, 4)
        return np.asarray(grid.reshape(spec["size"], spec["size"], 3) * deviation + mean)

    masked, target = one.masked.numpy()[:, None], one.target.numpy()
    hidden = np.broadcast_to((_HIDDEN - mean) / deviation, (patch * patch, 3)).reshape(1, -1)
    return {
        "seen": media.pixels(whole(np.where(masked, hidden, target))),
        "made": media.pixels(whole(np.where(masked, one.predicted.numpy(), target))),
        "original": media.pixels(whole(target)),
    }


def _spectrogram(
    one: Reconstruction, real: int, predictor: Predictor, modality: str
) -> dict[str, Any]:
    """The same of a log-mel spectrogram: time to the right, low tones below."""
    encoder: Any = predictor.model.encoder(modality)
    frames, mels = encoder.patch
    across = encoder.mel_patches

    def whole(patches: NDArray[Any]) -> NDArray[Any]:
        grid = patches[:real].reshape(-1, across, frames, mels).transpose(0, 2, 1, 3)
        return np.asarray(grid.reshape(-1, across * mels).T[::-1])

    masked, target = one.masked.numpy()[:, None], one.target.numpy()
    hidden = whole(np.broadcast_to(masked, target.shape))
    original = whole(target)
    low, high = np.quantile(original, [0.02, 0.995])
    filled = whole(np.where(masked, one.predicted.numpy(), target))
    return {
        "seen": media.heat(original, low, high, hidden),
        "made": media.heat(filled, low, high),
        "original": media.heat(original, low, high),
    }


def _words(
    one: Reconstruction, valid: torch.Tensor, context: Context, run: str, modality: str
) -> list[tuple[str, str, bool]]:
    """(text, what was predicted in its place or "", whether it joins the text before) by token."""
    tokenizer: Any = context.transforms(run)[modality].tokenizer  # type: ignore[attr-defined]
    words: list[tuple[str, str, bool]] = []
    before: list[int] = []
    for masked, target, predicted, real in zip(
        *(part.tolist() for part in (*one, valid)), strict=True
    ):
        if not real or target in tokenizer.special_ids:
            continue
        text = tokenizer.decode([*before, target])[len(tokenizer.decode(before)) :]
        before.append(target)
        joined = bool(words) and not text.startswith(" ")
        guess = tokenizer.decode([predicted]).strip().removeprefix("##") or "∅"
        words.append((text.strip(), guess if masked else "", joined))
    return words
