"""Numbers to set a recipe by: what ``mmfm data stats`` does.

    mmfm data stats data/shop
    mmfm data stats data/shop --size 224 --tokenizer runs/tokenizer --json stats.json

Sizes, lengths, rates, loudness and label shares of each split, in percentiles; the mean and
standard deviation of the pixels (from 0 to 1) that an encoder would see at `size`; and what follows
for `max_length` and `max_seconds`. Pictures and sounds are decoded as evaluation does it.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mmfm.data.tokenizer import Tokenizer, load_tokenizer
from mmfm.data.transforms import audio, image
from mmfm.data.transforms.base import BadSample
from mmfm_prep.dataset.inspect.summary import Summary
from mmfm_prep.dataset.reading import Dataset, Found, worth
from mmfm_prep.errors import PrepError
from mmfm_prep.parallel import ALL_CORES, Execution, ordered_map
from mmfm_prep.progress import say, stdout_console, track
from mmfm_prep.writer import write_json

POINTS = (0, 5, 50, 95, 99, 100)
"""Percentiles that are told."""
_COVERED = 99
_SUGGESTED_RATE = 16_000


def _numbers() -> array[float]:
    return array("d")


@dataclass
class Part:
    """What decoding shows of one split: sums over pixels by channel, and a number for each sound
    (its level in decibels of full scale) and each text (its tokens).
    """

    pixels: int = 0
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, 3)))
    levels: array[float] = field(default_factory=_numbers)
    tokens: array[float] = field(default_factory=_numbers)
    undecoded: Counter[str] = field(default_factory=Counter)

    def merge(self, other: Part) -> None:
        self.pixels += other.pixels
        self.sums += other.sums
        self.levels.extend(other.levels)
        self.tokens.extend(other.tokens)
        self.undecoded.update(other.undecoded)


def stats(
    folder: Path,
    *,
    size: int = 224,
    tokenizer: str | None = None,
    output: Path | None = None,
    execution: Execution = ALL_CORES,
) -> dict[str, Any]:
    """Print the numbers of the dataset in `folder`, and write them as JSON to `output`; they are
    returned, too. PrepError where there is no dataset or no tokenizer.
    """
    dataset = Dataset.open(folder)
    if tokenizer is not None:
        try:
            load_tokenizer(tokenizer)
        except ValueError as error:
            raise PrepError(str(error)) from None
    summary = Summary()
    parts: defaultdict[str, Part] = defaultdict(Part)
    work = partial(_measure, size=size, tokenizer=tokenizer)
    samples = _seen(dataset, summary)
    for split, part in ordered_map(work, _batches(samples), 1, worth(folder, execution)):
        parts[split].merge(part)
    found = {split: _split(summary, split, part) for split, part in sorted(parts.items())}
    everything: dict[str, Any] = {
        "size": size,
        "tokenizer": tokenizer,
        "splits": found,
        "labels": {name: _label(counter) for name, counter in sorted(summary.labels.items())},
    }
    _show(everything, stdout_console())
    if output is not None:
        write_json(output, everything)
        say(f"numbers: {output}")
    return everything


def _seen(dataset: Dataset, summary: Summary) -> Iterable[Found]:
    for sample in track(dataset.samples(), "read samples", len(dataset.manifest)):
        summary.add(sample)
        yield sample


def _batches(samples: Iterable[Found], size: int = 64) -> Iterable[list[Found]]:
    """Some samples of one split at a time."""
    held: list[Found] = []
    for sample in samples:
        if held and (len(held) == size or sample.split != held[0].split):
            yield held
            held = []
        held.append(sample)
    if held:
        yield held


def _measure(samples: list[Found], size: int, tokenizer: str | None) -> tuple[str, Part]:
    part = Part()
    pictures = image.Config().build({"size": size})
    sounds = audio.Config()
    whole = int(sounds.max_seconds * _SUGGESTED_RATE)
    waves = sounds.build({"sample_rate": _SUGGESTED_RATE, "max_samples": whole})
    encode = _loaded(tokenizer) if tokenizer is not None else None
    unused = np.random.default_rng(0)
    for sample in samples:
        try:
            if sample.image:
                pixels = pictures.decode(sample.files, sample.meta, unused, False) / 255.0
                part.pixels += pixels.shape[0] * pixels.shape[1]
                part.sums += np.stack([pixels.sum((0, 1)), np.square(pixels).sum((0, 1))])
            if sample.audio:
                wave = waves.decode(sample.files, sample.meta, unused, False)
                power = float(np.mean(np.square(wave, dtype=np.float64)))
                part.levels.append(10 * np.log10(max(power, 1e-10)))
        except BadSample as bad:
            part.undecoded[bad.reason] += 1
        if encode is not None:
            texts = [text for phrases in sample.texts.values() for text in phrases]
            part.tokens.extend(len(encode.encode(text)) for text in texts)
    return samples[0].split, part


_tokenizers: dict[str, Tokenizer] = {}


def _loaded(name: str) -> Tokenizer:
    """Loaded once by each process."""
    if name not in _tokenizers:
        _tokenizers[name] = load_tokenizer(name)
    return _tokenizers[name]


def _split(summary: Summary, split: str, part: Part) -> dict[str, Any]:
    media = summary.media[split]
    width, height = np.asarray(media.width), np.asarray(media.height)
    found: dict[str, Any] = {
        "samples": sum(c.samples for (name, _), c in summary.cells.items() if name == split),
        "shorter side, pixels": _points(np.minimum(width, height)),
        "longer by shorter side": _points(np.maximum(width, height) / np.minimum(width, height)),
        "seconds": _points(media.seconds),
        "level, dB": _points(part.levels),
        "tokens": _points(part.tokens),
        "sample rates": {str(rate): n for rate, n in media.rates.most_common()},
        "channels": {str(channels): n for channels, n in media.channels.most_common()},
        "not decoded": dict(part.undecoded),
    }
    if part.pixels:
        mean, square = part.sums / part.pixels
        found["mean"] = [round(float(v), 4) for v in mean]
        found["std"] = [round(float(v), 4) for v in np.sqrt(np.maximum(square - mean**2, 0))]
    return {key: value for key, value in found.items() if value not in ({}, None)}


def _points(values: Sequence[float] | NDArray[Any]) -> dict[str, float] | None:
    if not len(values):
        return None
    found = np.percentile(np.asarray(values), POINTS)
    return {
        f"{point} %": round(float(value), 3) for point, value in zip(POINTS, found, strict=True)
    }


def _label(counter: Counter[str]) -> dict[str, Any]:
    """A label's names with their counts, and what always saying the commonest would score."""
    share = max(counter.values()) / sum(counter.values())
    return {"majority": round(share, 4), "names": dict(counter.most_common())}


def _show(found: dict[str, Any], console: Console) -> None:
    for split, numbers in found["splits"].items():
        table = Table(f"{split}: {numbers['samples']:,}", *(f"{point} %" for point in POINTS))
        for name, points in numbers.items():
            if isinstance(points, dict) and "50 %" in points:
                table.add_row(name, *(f"{value:,.5g}" for value in points.values()))
        if table.row_count:
            console.print(table)
        for name in ("mean", "std"):
            if name in numbers:
                values = ", ".join(f"{value:.3f}" for value in numbers[name])
                console.print(f"{name} of pixels at {found['size']}: [{values}]")
        for name in ("sample rates", "channels", "not decoded"):
            if name in numbers:
                listed = ", ".join(f"{key}: {n:,}" for key, n in numbers[name].items())
                console.print(f"{name}: {listed}")
    for name, label in found["labels"].items():
        names = f"{len(label['names']):,} names, the commonest {label['majority']:.1%}"
        console.print(f"label {name}: {names}")
    for line in suggestions(found):
        console.print(line, soft_wrap=True)


def suggestions(found: dict[str, Any]) -> list[str]:
    """Settings that would cut at most 1 % of the samples of each split."""
    lines, covered = [], f"{_COVERED} %"
    splits = found["splits"].values()
    if tokens := [s["tokens"][covered] for s in splits if "tokens" in s]:
        lines.append(f"model.encoders.text.max_length={int(np.ceil(max(tokens)))}")
    if seconds := [s["seconds"][covered] for s in splits if "seconds" in s]:
        lines.append(f"model.encoders.audio.max_seconds={np.ceil(10 * max(seconds)) / 10:g}")
    return [f"reaches {_COVERED} % of all: {line}" for line in lines]
