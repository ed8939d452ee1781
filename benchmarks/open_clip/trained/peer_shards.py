"""The shards as open_clip reads them: each title in a ``.txt``, each picture laid on white.

open_clip's loading drops the transparency of a picture, so that what is behind it shows; without
this the two sides would see other pictures.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import shutil
from pathlib import Path

import webdataset
from PIL import Image

SPLITS = ("train", "val")


def written(data: Path, mixed: bool) -> dict[str, list[Path]]:
    """split ▶ the tars, made beside the shards in `data` at the first time: each with the samples
    of one shard in its order, or with `mixed` all of a split in random order.
    """
    folder = data.with_name(f"{data.name}-open_clip{'-mixed' if mixed else ''}")
    if not folder.is_dir():
        made = data.with_name(f".{folder.name}")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        for split in SPLITS:
            convert(tars_of(data, split), made, mixed)
        made.rename(folder)
    return {split: tars_of(folder, split) for split in SPLITS}


def tars_of(folder: Path, split: str) -> list[Path]:
    return sorted(folder.glob(f"{split}-*.tar"))


def convert(tars: list[Path], folder: Path, mixed: bool) -> None:
    """As many tars of the same sizes in `folder`."""
    shards = [list(samples(tar)) for tar in tars]
    found = [sample for shard in shards for sample in shard]
    if mixed:
        random.Random(0).shuffle(found)
    following = iter(found)
    for tar, shard in zip(tars, shards, strict=True):
        with webdataset.TarWriter(str(folder / tar.name)) as writer:
            for sample in itertools.islice(following, len(shard)):
                writer.write(
                    {
                        "__key__": sample["__key__"],
                        "png": on_white(sample["png"]),
                        "txt": json.loads(sample["json"])["texts"]["en"][0].encode(),
                        "json": sample["json"],
                    }
                )


def samples(tar: Path) -> webdataset.WebDataset:
    """In the tar's order, each as ``{ending: bytes}``."""
    return webdataset.WebDataset(str(tar), shardshuffle=False)


def on_white(png: bytes) -> bytes:
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    file = io.BytesIO()
    Image.alpha_composite(white, picture).convert("RGB").save(file, "PNG")
    return file.getvalue()
