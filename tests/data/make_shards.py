"""Small tri-modal tars written by hand, with a manifest, good and bad samples."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from mmfm.data.index import index_path
from mmfm.data.manifest import build_index
from mmfm.data.tokenizer import train_bpe

Files = dict[str, bytes]
WORDS = ("red", "green", "blue", "round", "square", "large", "small")


def png(seed: int, size: int = 12, mode: str = "RGB") -> bytes:
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, channels), dtype=np.uint8)
    return encoded(Image.fromarray(pixels.squeeze(), mode))


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def sound(seed: int, seconds: float = 0.25, rate: int = 8000, kind: str = "FLAC") -> bytes:
    wave = np.random.default_rng(seed).uniform(-0.5, 0.5, int(seconds * rate)).astype(np.float32)
    return encoded_sound(wave, rate, kind)


def encoded_sound(wave: np.ndarray, rate: int, kind: str = "FLAC", **options: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=kind, **options)
    return file.getvalue()


def captions(number: int) -> list[str]:
    return [f"a {WORDS[(number + i) % 7]} {WORDS[(number * 3 + i) % 7]} thing" for i in range(3)]


def files_of(number: int, modalities: str = "audio+image+text") -> Files:
    """The files of sample `number`; three texts, a label for all but every fifth."""
    has = modalities.split("+")
    meta: dict[str, Any] = {"id": f"sample-{number}", "group": f"group-{number // 2}"}
    if number % 5:
        meta["labels"] = {"colour": ("red", "blue")[number % 2]}
    files: Files = {}
    if "image" in has:
        files["png"] = png(number)
    if "text" in has:
        meta["texts"] = captions(number)
    if "audio" in has:
        files["flac"] = sound(number, 0.1 + 0.05 * (number % 5))
    return files | {"json": json.dumps(meta).encode()}


def write_tar(path: Path, samples: list[tuple[str, Files]]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, files in samples:
            for ending, content in files.items():
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def write_set(folder: Path, shards: list[list[tuple[str, Files]]], split: str = "train") -> Path:
    """Tars, their indexes and manifest.json in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    totals: Counter[str] = Counter()
    for number, samples in enumerate(shards):
        tar = folder / f"{number:03d}.tar"
        write_tar(tar, samples)
        index = build_index(tar)
        index.save(index_path(tar))
        totals.update(index.header.modality_sets)
        entries.append(
            {
                "name": tar.name,
                "bytes": tar.stat().st_size,
                "sha256": hashlib.sha256(tar.read_bytes()).hexdigest(),
                "samples": len(index),
                "modality_sets": index.header.modality_sets,
                "split": split,
            }
        )
    manifest = {
        "format": 1,
        "command": "by hand",
        "licence": "CC0",
        "seed": 0,
        "splits": [split],
        "labels": {"colour": ["red", "blue"]},
        "totals": totals,
        "shards": entries,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def tri_modal_shards(
    sets: tuple[str, ...] = ("audio+image+text", "image+text", "audio+text"), size: int = 24
) -> list[list[tuple[str, Files]]]:
    """Two shards of `size` samples for each modality set, numbered throughout."""
    shards, number = [], 0
    for modalities in sets:
        for _ in range(2):
            numbers = range(number, number + size)
            shards.append([(f"s{n:05d}", files_of(n, modalities)) for n in numbers])
            number += size
    return shards


def make_specs(folder: Path) -> dict[str, dict[str, Any]]:
    """Specs of three small encoders; the tokenizer is trained into `folder`."""
    texts = [text for number in range(40) for text in captions(number)]
    tokenizer = train_bpe(texts, 300, folder)
    return {
        "image": {
            "size": 8,
            "mean": [0.5, 0.4, 0.3],
            "std": [0.2, 0.3, 0.4],
            "interpolation": "bicubic",
        },
        "text": {
            "tokenizer": str(folder),
            "max_length": 12,
            "vocab_size": tokenizer.vocab_size,
        },
        "audio": {"sample_rate": 4000, "max_samples": 1200},
    }
