"""How many samples a second the data pipeline gives: 64-pixel PNGs with texts, by worker processes.

python benchmarks/data_loading.py [--samples 4000] [--seconds 5] [--workers 0 1 2]

Pictures are smooth noise, written as shards into a temporary folder that stays in the page cache,
so this measures reading by offset, decoding, tokenizing, collating and the way between processes.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image

from mmfm.data.pipeline import DataConfig, Pipeline, SourceConfig
from mmfm.data.tokenizer import train_bpe

SHARD = 1000
SIZE = 64
WORDS = ["red", "green", "blue", "round", "square", "large", "small", "dog", "cat", "tree", "car"]


def write_shards(folder: Path, samples: int) -> None:
    """Tars of SHARD samples, each a PNG and a JSON with two texts."""
    rng = np.random.default_rng(0)
    for first in range(0, samples, SHARD):
        with webdataset.TarWriter(str(folder / f"{first // SHARD:04d}.tar")) as tar:
            for number in range(first, min(first + SHARD, samples)):
                small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                picture = Image.fromarray(small).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
                file = io.BytesIO()
                picture.save(file, "PNG")
                texts = [" ".join(rng.choice(WORDS, 6)) for _ in range(2)]
                meta = json.dumps({"id": str(number), "texts": texts}).encode()
                tar.write({"__key__": f"{number:08d}", "png": file.getvalue(), "json": meta})


def measure(folder: Path, workers: int, seconds: float, batch_size: int) -> float:
    """Samples a second after the first steps, which start the workers."""
    tokenizer = train_bpe([" ".join(WORDS)], 400, folder / "tokenizer")
    config = DataConfig(
        sources={"pictures": SourceConfig(path=str(folder))},
        global_batch_size=batch_size,
        workers=workers,
    )
    specs = {
        "image": {"size": SIZE, "interpolation": "bicubic"},
        "text": {
            "tokenizer": str(folder / "tokenizer"),
            "max_length": 32,
            "vocab_size": tokenizer.vocab_size,
        },
    }
    steps = iter(
        Pipeline(config, specs, seed=0, rank=0, world_size=1, micro_batch_size=batch_size // 4)
    )
    for _ in range(2 + config.prefetch * workers):
        next(steps)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(steps)
        count += batch_size
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch-size", type=int, default=256)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), arguments.samples)
        for workers in arguments.workers:
            rate = measure(Path(folder), workers, arguments.seconds, arguments.batch_size)
            print(f"workers {workers}: {rate:8.0f} samples/s", flush=True)


if __name__ == "__main__":
    main()
