"""The page of ``mmfm data inspect --html``: samples to look at and to hear, and histograms.

One file that needs nothing else; pictures and sounds are in it, made small.
"""

from __future__ import annotations

import base64
import heapq
import io
import random
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from mmfm_prep import pictures, sound
from mmfm_prep.dataset.inspect.charts import bars, histograms
from mmfm_prep.dataset.inspect.summary import Summary
from mmfm_prep.dataset.reading import Dataset, Found

_SIDE = 176
_RATE, _SECONDS = 16_000, 5.0
_TEXTS = 4


@dataclass
class Contact:
    """Draws `number` samples of each split by lot, without knowing how many come."""

    number: int
    seed: int
    _drawn: dict[str, list[tuple[float, int, Found]]] = field(default_factory=dict)
    _count: int = 0

    def offer(self, sample: Found) -> None:
        """Take part in the draw."""
        if not self.number:
            return
        self._count += 1
        place = f"{self.seed}/{sample.split}/{sample.shard}/{sample.key}"
        lot = random.Random(place.encode("utf-8", "surrogatepass")).random()
        heap = self._drawn.setdefault(sample.split, [])
        heapq.heappush(heap, (-lot, self._count, sample))
        if len(heap) > self.number:
            heapq.heappop(heap)

    def drawn(self) -> dict[str, list[Found]]:
        """The samples of each split, in the order of the dataset."""
        ordered = {s: sorted(heap, key=lambda entry: entry[1]) for s, heap in self._drawn.items()}
        return {split: [sample for *_, sample in heap] for split, heap in ordered.items()}


def write_page(path: Path, dataset: Dataset, summary: Summary, contact: Contact) -> None:
    """Write the page of a dataset to `path`."""
    environment = Environment(
        loader=PackageLoader("mmfm_prep.dataset.inspect", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    splits = [
        {"name": name, "held_out": name in dataset.held_out, "cards": [_card(s) for s in samples]}
        for name, samples in sorted(contact.drawn().items())
    ]
    page = environment.get_template("page.html.j2").render(
        title=dataset.folder.absolute().name,
        licence=dataset.about.get("licence", "unknown"),
        command=dataset.about.get("command", "unknown"),
        cells=[
            (split, modality_set or "nothing", cell.samples, cell.bytes / 1e6)
            for (split, modality_set), cell in sorted(summary.cells.items())
        ],
        total=len(dataset.manifest),
        splits=splits,
        charts=[*histograms(summary), *bars(summary)],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


def _card(sample: Found) -> dict[str, Any]:
    """What is shown of a sample."""
    texts = [(lang, text) for lang, listed in sample.texts.items() for text in listed]
    return {
        "id": sample.id,
        "place": f"{sample.shard}/{sample.key}",
        "picture": _picture(sample.image) if sample.image else "",
        "sound": _sound(sample.audio) if sample.audio else "",
        "texts": texts[:_TEXTS],
        "more": len(texts) - _TEXTS,
        "labels": {f: v if isinstance(v, str) else ", ".join(v) for f, v in sample.labels.items()},
        "missing": [m for m in ("image", "audio", "text") if m not in sample.modality_set],
    }


def _picture(data: bytes) -> str:
    """A small copy as a data URI; "broken" where there is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(data), formats=pictures.FORMATS)
        picture.draft(None, (2 * _SIDE, 2 * _SIDE))
        drawn = picture.convert("RGBA")
    except Exception:  # broken files make PIL raise almost anything
        return "broken"
    drawn.thumbnail((2 * _SIDE, 2 * _SIDE))
    paper = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")
    file = io.BytesIO()
    paper.save(file, "WEBP", quality=80)
    return _uri(file.getvalue(), "image/webp")


def _sound(data: bytes) -> str:
    """The first seconds as a data URI; "broken" where there are none."""
    try:
        wave, rate = sound.decode(data)
    except ValueError:
        return "broken"
    wave = sound.resample(wave[: int(_SECONDS * rate)], rate, _RATE)
    return _uri(sound.encode(wave, _RATE), "audio/flac")


def _uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
