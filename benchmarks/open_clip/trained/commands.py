"""The commands of both sides, from the one recipe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.data_loading.environments import python_of
from benchmarks.open_clip import same
from benchmarks.open_clip.trained.start import Start
from mmfm.train.recipe import PretrainConfig

ROOT = Path(__file__).parents[3]
NEEDED = "pandas==2.3.3"
"""What open_clip's command imports and mmfm doesn't have."""

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
    """Run both at a time, one core each; CalledProcessError where one fails."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }
    running = []
    for name, words in (("mmfm", ours), ("open_clip", theirs)):
        with (folder / f"{name}.log").open("wb") as said:
            running.append(
                subprocess.Popen(words, cwd=ROOT, env=environment, stdout=said, stderr=said)
            )
    for process, words in zip(running, (ours, theirs), strict=True):
        if process.wait() != 0:
            raise subprocess.CalledProcessError(process.returncode, words)
