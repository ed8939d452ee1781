"""Small sets of labelled pictures on disk."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

SPECS = {
    "image": {"size": 8, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"},
}


def picture(colour: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(colour).integers(0, 255, size=(8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def make_set(folder: Path, animals: list[str], broken: tuple[int, ...] = ()) -> Path:
    """A tar with one picture a sample, labelled in turn, and its manifest without shard digests."""
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:

        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        for i in range(8):
            label = animals[i % len(animals)]
            meta = {"id": f"{folder.name}/{i}", "group": label, "labels": {"animal": label}}
            data = b"no picture" if i in broken else picture(sum(map(ord, label)))
            add(f"{i:03d}.png", data)
            add(f"{i:03d}.json", json.dumps(meta).encode())
    return folder
