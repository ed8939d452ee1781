"""Masked pictures, spectrograms and captions of held-out samples beside what a model with masked
objectives makes of them.

    type: reconstructions
    title: What is hidden, and what the model makes of it
    run: masked
    source: pairs

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
from mmfm_eval.report.panels.base import Missing, Panel, PanelConfig, check_count
from mmfm_eval.report.template import render

if TYPE_CHECKING:
    from mmfm.predictor import Predictor
    from mmfm_eval.report.context import Context

_HIDDEN = 0.62
_KINDS = ["picture", "spectrogram", "caption"]


@dataclass(kw_only=True)
class Config(PanelConfig):
    """`shown` samples of `source`, with the masks that evaluation gives them."""

    run: str
    source: str
    shown: int = 6

    def __post_init__(self) -> None:
        check_count(self.shown, "shown")

    def runs_read(self) -> list[str]:
        return [self.run]

    def sources_read(self) -> list[str]:
        return [self.source]

    @torch.no_grad()
    def render(self, context: Context) -> Panel:
        predictor = context.predictor(self.run)
        task: Any = predictor.task
        objectives = [o for o in task.objectives.values() if hasattr(o, "reconstruct")]
        if not objectives:
            raise Missing(f"Run {self.run} has no masked objective: its recipe names none.")
        raws = self._draw(context, set(predictor.specs))
        batch = to_device(context.batch(self.run, raws), predictor.device)
        batch = task.prepare(batch)
        blocks = []
        for objective in objectives:
            read, modality = objective.reads[0], objective.modality
            found = task.features(batch, objective.reads)[read]
            if modality in found.masked:
                made = objective.reconstruct({read: found})
                block = {
                    "kind": _kind(predictor.specs[modality]),
                    "ratio": task.mask_ratios[modality],
                    "context": [m for m in read.modalities if m != modality],
                    "normalised": getattr(objective, "normalise", False),
                    "samples": self._samples(context, modality, raws, batch, found, made),
                }
                blocks.append(block)
        blocks.sort(key=lambda block: _KINDS.index(block["kind"]))
        html = render(__name__, blocks=blocks, seed=context.config.seed)
        return Panel(self.title, html)

    def _draw(self, context: Context, modalities: set[str]) -> list[RawSample]:
        """Samples with as many of the model's modalities as any has, by lot."""
        samples = context.samples(self.source)
        ids = sorted(samples.places)
        order = context.rng("reconstructions").permutation(len(ids))
        raws = [samples.read(ids[i]) for i in order[: 40 * self.shown]]
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
            items.append({**item, "name": _name(context, self.run, raws[sample])})
        return items


def _kind(spec: dict[str, Any]) -> str:
    """How a modality is drawn, by what its encoder says of its inputs."""
    if "vocab_size" in spec:
        return "caption"
    return "spectrogram" if "sample_rate" in spec else "picture"


def _name(context: Context, run: str, raw: RawSample) -> str:
    has_text = "text" in raw.modalities and "text" in context.transforms(run)
    return context.text(run, raw) if has_text else raw.sample_id


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
