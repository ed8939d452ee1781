"""Debian's openclipart-png as shards: each drawing with the title that its file's name is."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

from benchmarks.data_loading.sets import drawings

VOCABULARY = 2000


def shards(cache: Path, size: int = 64) -> Path:
    """The folder of the shards, made below `cache` at the first time. ValueError without apt."""
    folder = cache / f"openclipart-{size}"
    if not (folder / "manifest.json").is_file():
        found = drawings(cache)
        if not found:
            raise ValueError("openclipart-png can't be fetched: there is no apt-get")
        table = cache / "openclipart.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["image", "title"])
            rows.writerows([picture, title(picture)] for picture in found)
        _mmfm(
            *("make", "table", str(table), str(folder), "--drop-leaks", "image=image"),
            *("texts.en=[title]", "group=title", f"media.image_longest={2 * size}"),
            *("filters.near.image=6", "shares={train: 0.8, val: 0.2}"),
        )
    tokenizer = folder / "tokenizer"
    if not tokenizer.is_dir():
        _mmfm("tokenizer", str(folder), str(tokenizer), "--vocab-size", str(VOCABULARY))
    return folder


def title(picture: Path) -> str:
    """The folder and the words of the file's name: ``animals/birds/red_parrot_01.png`` ▶ "birds:
    red parrot".
    """
    words = picture.stem.replace("-", "_").split("_")
    told = [word for word in words if word and not word.isdigit()]
    return f"{picture.parent.name}: {' '.join(told)}"


def _mmfm(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "mmfm", "data", *words], check=True)
