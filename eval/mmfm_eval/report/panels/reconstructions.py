"""Masked pictures, spectrograms and captions of held-out samples beside what a model with masked
objectives makes of them.

    type: reconstructions
    title: What is hidden, and what the model makes of it
    run: masked
    source: pairs
    captions: {run: main, source: pairs}

Where the loss is on normalised patches the model says nothing of a patch's mean and deviation;
those of the original are put in.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmfm.data.reader import RawSample
from mmfm.objectives.base import Reconstruction
from mmfm.task import without
from mmfm.types import Batch, to_device
from mmfm_eval.report import media
from mmfm_eval.report.missing import Missing
from mmfm_eval.report.panels.base import Panel, PanelConfig, check_count
from mmfm_eval.report.template import render

if TYPE_CHECKING:
    from mmfm.data.tokenizer import Tokenizer
    from mmfm.predictor import Predictor
    from mmfm_eval.report.context import Context

_HIDDEN = 0.62
_KINDS = ["picture", "spectrogram", "caption"]


@dataclass(kw_only=True)
class Captions:
    """Whose texts are shown, and which run fills them in."""

    run: str
    source: str


@dataclass(kw_only=True)
class Config(PanelConfig):
    """`shown` samples of `source`, with the masks that evaluation gives them, and what `run` makes
    of them; texts may be of another source and another run: `captions`.
    """

    run: str
    source: str
    captions: Captions | None = None
    shown: int = 6

    def __post_init__(self) -> None:
        check_count(self.shown, "shown")

    def runs_read(self) -> list[str]:
        return [self.run, *([self.captions.run] if self.captions else [])]

    def sources_read(self) -> list[str]:
        return [self.source, *([self.captions.source] if self.captions else [])]

    @torch.no_grad()
    def render(self, context: Context) -> Panel:
        kinds = set(_KINDS) if self.captions is None else set(_KINDS) - {"caption"}
        blocks = self._blocks(context, self.run, self.source, kinds)
        if self.captions:
            run, source = self.captions.run, self.captions.source
            texts = self._blocks(context, run, source, {"caption"})
            if not texts:
                raise Missing(f"Run {run} fills in no text of {source}.")
            blocks += texts
        blocks.sort(key=lambda b: _KINDS.index(b["kind"]))
        html = render(__name__, blocks=blocks, seed=context.config.seed)
        return Panel(self.title, html)

    def _blocks(
        self, context: Context, run: str, source: str, kinds: Collection[str]
    ) -> list[dict[str, Any]]:
        predictor = context.predictor(run)
        task: Any = predictor.task
        objectives = [o for o in task.objectives.values() if hasattr(o, "reconstruct")]
        if not objectives:
            raise Missing(f"Run {run} has no masked objective: its recipe names none.")
        fitting = [o for o in objectives if _kind(predictor.specs[o.modality]) in kinds]
        made = [self._block(context, run, source, o) for o in fitting]
        return [block for block in made if block]

    def _block(
        self, context: Context, run: str, source: str, objective: Any
    ) -> dict[str, Any] | None:
        """What one objective makes of its samples; None where they lack its modality."""
        predictor, modality = context.predictor(run), objective.modality
        read = objective.reads[0]
        raws = self._draw(context, source, set(read.modalities))
        task: Any = predictor.task
        batch = task.prepare(to_device(context.batch(run, raws), predictor.device))
        found = task.features(batch, objective.reads)[read]
        if modality not in found.masked:
            return None
        made = objective.reconstruct({read: found})
        rest = [m for m in read.modalities if m != modality and m in batch["rows"]]
        kind = _kind(predictor.specs[modality])
        rows = [raws[sample] for sample in found.rows[modality].tolist()]
        if kind == "picture":
            samples: list[dict[str, Any]] = _pictures(made, predictor.specs[modality])
        elif kind == "spectrogram":
            samples = _spectrograms(made, batch, predictor, modality)
        else:
            alone = task.features(without(batch, rest), objective.reads)[read]
            guesses = [made, *([objective.reconstruct({read: alone})] if rest else [])]
            tokenizer = context.transforms(run)[modality].tokenizer  # type: ignore[attr-defined]
            shown = rows if "image" in rest else []
            samples = _captions(guesses, batch[f"{modality}_mask"].cpu(), tokenizer, shown)
        return {
            "kind": kind,
            "run": run,
            "ratio": task.mask_ratios[modality],
            "context": [
                f"what is left of the {m}" if m in task.mask_ratios else f"the {m}" for m in rest
            ],
            "normalised": getattr(objective, "normalise", False),
            "samples": [
                {**sample, "name": context.name(run, raw)}
                for sample, raw in zip(samples, rows, strict=True)
            ],
        }

    def _draw(self, context: Context, source: str, modalities: set[str]) -> list[RawSample]:
        """Samples with as many of the modalities as any has, by lot."""
        samples = context.samples(source)
        ids = sorted(samples.places)
        order = context.rng("reconstructions").permutation(len(ids))
        raws = [samples.read(ids[i]) for i in order[: 12 * self.shown]]
        raws.sort(key=lambda raw: -len(modalities & set(raw.modalities)))  # stable: the lot decides
        return raws[: self.shown]


def _kind(spec: dict[str, Any]) -> str:
    """How a modality is drawn, by what its encoder says of its inputs."""
    if "vocab_size" in spec:
        return "caption"
    return "spectrogram" if "sample_rate" in spec else "picture"


def _rows(made: Reconstruction) -> list[Reconstruction]:
    return [Reconstruction(*parts) for parts in zip(*(part.cpu() for part in made), strict=True)]


def _pictures(made: Reconstruction, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The masked picture, the masked patches filled in, the original."""
    side = round(made.masked.shape[1] ** 0.5)
    patch = spec["size"] // side
    mean, deviation = np.array(spec["mean"]), np.array(spec["std"])
    hidden = np.broadcast_to((_HIDDEN - mean) / deviation, (patch * patch, 3)).reshape(1, -1)

    def whole(patches: NDArray[Any]) -> str:
        grid = patches.reshape(side, side, patch, patch, 3).transpose(0, 2, 1, 3, 4)
        return media.pixels(grid.reshape(spec["size"], spec["size"], 3) * deviation + mean)

    samples = []
    for one in _rows(made):
        masked, target = one.masked.numpy()[:, None], one.target.numpy()
        samples.append(
            {
                "seen": whole(np.where(masked, hidden, target)),
                "made": whole(np.where(masked, one.predicted.numpy(), target)),
                "original": whole(target),
            }
        )
    return samples


def _spectrograms(
    made: Reconstruction, batch: Batch, predictor: Predictor, modality: str
) -> list[dict[str, Any]]:
    """The same of log-mel spectrograms: time to the right, low tones below."""
    encoder: Any = predictor.model.encoder(modality)
    frames, mels = encoder.patch
    across = encoder.mel_patches
    real = encoder.token_valid(batch[modality], batch.get(f"{modality}_mask")).sum(1).tolist()

    def whole(patches: NDArray[Any], length: int) -> NDArray[Any]:
        grid = patches[:length].reshape(-1, across, frames, mels).transpose(0, 2, 1, 3)
        return np.asarray(grid.reshape(-1, across * mels).T[::-1])

    samples = []
    for one, length in zip(_rows(made), real, strict=True):
        masked, target = one.masked.numpy()[:, None], one.target.numpy()
        hidden = whole(np.broadcast_to(masked, target.shape), length)
        original = whole(target, length)
        low, high = np.quantile(original, [0.02, 0.995])
        filled = whole(np.where(masked, one.predicted.numpy(), target), length)
        samples.append(
            {
                "seen": media.heat(original, low, high, hidden),
                "made": media.heat(filled, low, high),
                "original": media.heat(original, low, high),
            }
        )
    return samples


def _captions(
    guesses: Sequence[Reconstruction],
    valid_BL: torch.Tensor,
    tokenizer: Tokenizer,
    beside: Sequence[RawSample],
) -> list[dict[str, Any]]:
    """Each text as it is filled in, once for each of the `guesses`; the pictures of the samples
    `beside` it, if there are any.
    """
    pictures = [
        media.picture(raw.files, 64) if "image" in raw.modalities else None for raw in beside
    ]
    return [
        {
            "lines": [_words(one, valid, tokenizer) for one in ones],
            "picture": pictures[row] if pictures else None,
        }
        for row, (valid, *ones) in enumerate(zip(valid_BL, *map(_rows, guesses), strict=True))
    ]


def _words(
    one: Reconstruction, valid: torch.Tensor, tokenizer: Tokenizer
) -> list[tuple[str, str, bool]]:
    """(text, what was predicted in its place or "", whether it joins the text before) by token."""
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
