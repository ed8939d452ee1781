"""The commands of both sides, from the one recipe."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.data_loading.environments import python_of
from benchmarks.open_clip import same
from benchmarks.open_clip.trained.start import Start
from mmfm.train.recipe import PretrainConfig

ROOT = Path(__file__).parents[3]
NEEDED = f"open_clip_torch[training]=={version('open_clip_torch')}"
"""open_clip's command wants pandas and an older webdataset than mmfm: an environment of its own."""

CROPS = "{type: image, crop_scale: [0.9, 1.0]}"
"""open_clip's own, when nothing else is asked for."""

Words = list[str]


def mmfm(data: Path, begin: Start, steps: int, seed: int, folder: Path) -> Words:
    return [
        *(sys.executable, "-m", "mmfm", "pretrain", str(same.RECIPE)),
        *same.places(data),
        f"init={begin.mmfm}",
        f"run.dir={folder / 'mmfm'}",
        f"run.seed={seed}",
        f"data.transforms.image={CROPS}",
        *(f"train.{name}={steps}" for name in ("max_steps", "save_every", "eval_every")),
    ]


def open_clip(
    config: PretrainConfig,
    tars: dict[str, list[Path]],
    begin: Start,
    samples: int,
    epochs: int,
    seed: int,
    folder: Path,
    cache: Path,
) -> Words:
    """Its trainer with the recipe's optimiser; all else, such as its crops, as it is by default."""
    optim = config.optim
    settings = {
        "model": f"local-dir:{begin.open_clip}",
        "train-data": "::".join(map(str, tars["train"])),
        "train-num-samples": samples,
        "dataset-type": "webdataset",
        "batch-size": config.data.global_batch_size,
        "epochs": epochs,
        "workers": config.data.workers,
        "lr": optim.lr,
        "beta1": optim.betas[0],
        "beta2": optim.betas[1],
        "eps": optim.eps,
        "wd": optim.weight_decay,
        "warmup": optim.warmup_steps,
        "lr-scheduler": optim.schedule,
        "precision": config.train.precision,
        "device": "cpu",
        "seed": seed,
        "logs": folder,
        "name": "open_clip",
        "save-frequency": 0,
    }
    return [
        *(python_of("open_clip", NEEDED, cache), "-m", "open_clip_train.main"),
        *(word for name, value in settings.items() for word in (f"--{name}", str(value))),
    ]


def run_both(ours: Words, theirs: Words, folder: Path) -> None:
    """Run both at a time, one core each, with what they say in a file each below `folder`;
    RuntimeError where one fails: the other is then stopped.
    """
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }
    running = {}
    for name, words in (("mmfm", ours), ("open_clip", theirs)):
        with (folder / f"{name}.log").open("wb") as said:
            running[name] = subprocess.Popen(
                words, cwd=ROOT, env=environment, stdout=said, stderr=said
            )
    try:
        while any(process.poll() is None for process in running.values()):
            for name, process in running.items():
                if process.poll():
                    said = (folder / f"{name}.log").read_text(errors="replace")
                    raise RuntimeError(f"{name} failed:\n{said[-2000:]}")
            time.sleep(1)
    finally:
        for process in running.values():
            process.terminate()
            process.wait()
