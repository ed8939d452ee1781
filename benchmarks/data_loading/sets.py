"""The tars that every loader reads, made once below the cache folder."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image

DRAWINGS = "openclipart-png"


@dataclass(frozen=True)
class Set:
    """`side`: pixels of the shorter side in the shards; `size`: those that are asked for."""

    name: str
    kind: str
    side: int
    size: int
    samples: int
    shard: int


SETS = {
    s.name: s
    for s in (
        Set("png64", "png", 64, 64, 20_000, 1_000),
        Set("jpeg512", "jpg", 512, 224, 3_200, 100),
        Set("jpeg768", "jpg", 768, 224, 1_600, 50),
        Set("jpeg1024", "jpg", 1024, 224, 1_600, 50),
    )
}


def drawings(cache: Path) -> list[Path]:
    """The PNGs of Debian's package, fetched into `cache` first; none where there is no apt."""
    folder = cache / DRAWINGS
    if not folder.is_dir() and shutil.which("apt-get") and shutil.which("dpkg"):
        made = cache / f".{DRAWINGS}"
        made.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["apt-get", "download", DRAWINGS], cwd=made, capture_output=True)
        if done.returncode == 0:
            package = next(made.glob("*.deb"))
            subprocess.run(["dpkg", "-x", package.name, "."], cwd=made, check=True)
            package.unlink()
            made.rename(folder)
    return sorted(path for path in folder.rglob("*.png") if not path.is_symlink())


def make(wanted: Set, samples: int, folder: Path, pictures: list[Path]) -> None:
    """Write the tars of `wanted`, all or none."""
    made = folder.with_name(f".{folder.name}")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    drawn = enumerate(_pictures(wanted, pictures))
    for first in range(0, samples, wanted.shard):
        with webdataset.TarWriter(str(made / f"{first // wanted.shard:04d}.tar")) as tar:
            for _ in range(first, min(first + wanted.shard, samples)):
                number, picture = next(drawn)
                file = io.BytesIO()
                picture.save(file, "PNG" if wanted.kind == "png" else "JPEG", quality=90)
                meta = json.dumps({"id": str(number), "texts": [f"drawing {number}"]}).encode()
                key = f"{number:08d}"
                tar.write({"__key__": key, wanted.kind: file.getvalue(), "json": meta})
    os.sync()
    made.rename(folder)


def _pictures(wanted: Set, drawn: list[Path]) -> Iterator[Image.Image]:
    """Without end: drawings, each on another ground, whose longer side is up to half as long
    again.
    """
    rng = np.random.default_rng(0)
    number = 0
    while True:
        long = round(wanted.side * rng.uniform(1, 1.5))
        size = (wanted.side, long) if rng.random() < 0.5 else (long, wanted.side)
        ground = _ground(size, rng)
        if drawn:
            with suppress(Image.DecompressionBombError):  # a few of them have 230 million pixels
                with Image.open(drawn[number % len(drawn)]) as file:
                    file.thumbnail((wanted.side, wanted.side))
                    drawing = file.convert("RGBA").resize((wanted.side, wanted.side))
                ground.paste(drawing, (0, 0), drawing)
        yield ground
        number += 1


def _ground(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Clouds with the grain of a photograph, so that the file is about as long as that of one."""
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    clouds = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.int16)
    grain = rng.integers(-8, 9, clouds.shape, dtype=np.int16)
    return Image.fromarray(np.clip(clouds + grain, 0, 255).astype(np.uint8))
