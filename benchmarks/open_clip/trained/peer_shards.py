"""The shards as open_clip reads them: each title in a ``.txt``, each picture laid on white.

open_clip's loading drops the transparency of a picture, so that what is behind it shows; without
this the two sides would see other pictures.
"""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import webdataset
from PIL import Image

SPLITS = ("train", "val")


def written(data: Path) -> dict[str, list[Path]]:
    """split ▶ the tars, made beside the shards in `data` at the first time."""
    folder = data.with_name(f"{data.name}-open_clip")
    if not folder.is_dir():
        made = data.with_name(f".{folder.name}")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        for tar in sorted(data.glob("*.tar")):
            convert(tar, made / tar.name)
        made.rename(folder)
    return {split: sorted(folder.glob(f"{split}-*.tar")) for split in SPLITS}


def convert(tar: Path, into: Path) -> None:
    with webdataset.TarWriter(str(into)) as writer:
        for sample in samples(tar):
            meta = json.loads(sample["json"])
            writer.write(
                {
                    "__key__": sample["__key__"],
                    "png": on_white(sample["png"]),
                    "txt": meta["texts"]["en"][0].encode(),
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
