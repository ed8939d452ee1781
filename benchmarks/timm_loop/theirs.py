"""A plain training loop around a model of timm: its transforms, its optimiser, its schedule.

    python -m benchmarks.timm_loop.theirs RECIPE OUT --weights FOLDER --data SHARDS --split SPLIT
        --lr 1e-3 --seed 0

Steps, batch size, augmentation and what is trained on are those of mmfm's RECIPE. Writes the
accuracy on SPLIT into OUT.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmfm.data.manifest import Manifest
from mmfm.data.reader import SampleReader

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Pictures(Dataset[tuple[Tensor, int]]):
    """(picture, number of its label) for all samples of some splits."""

    def __init__(
        self, shards: str, splits: list[str], label: str, names: list[str], transform: Any
    ) -> None:
        manifest = Manifest.open(shards, splits)
        reader = SampleReader([("pictures", manifest)])
        found = [
            reader.read(0, shard, i)
            for shard, described in enumerate(manifest.shards)
            for i in range(described.samples)
        ]
        labelled = [sample for sample in found if label in sample.meta["labels"]]
        self.names = names or sorted({sample.meta["labels"][label] for sample in labelled})
        self.labels = [self.names.index(sample.meta["labels"][label]) for sample in labelled]
        self.files = [picture(sample.files) for sample in labelled]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        opened = Image.open(io.BytesIO(self.files[index])).convert("RGBA")
        white = Image.new("RGBA", opened.size, "white")
        white.alpha_composite(opened)
        return self.transform(white.convert("RGB")), self.labels[index]


def picture(files: Any) -> bytes:
    (found,) = [files[ending] for ending in ("png", "webp", "jpg", "jpeg") if ending in files]
    return bytes(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args()
    recipe = yaml.safe_load(args.recipe.read_text())

    described = json.loads((args.weights / "config.json").read_text())
    cfg = described["pretrained_cfg"]
    size = recipe["model"]["encoders"]["image"]["image_size"]
    inputs = {"mean": cfg["mean"], "std": cfg["std"], "interpolation": cfg["interpolation"]}
    change = recipe["data"]["transforms"]["image"]
    train_transform = create_transform(
        size,
        is_training=True,
        scale=change["crop_scale"],
        hflip=change["flip"],
        color_jitter=change["colour_jitter"],
        **inputs,
    )
    test_transform = create_transform(size, crop_pct=1.0, **inputs)
    label = recipe["head"]["label"]
    splits = recipe["data"]["sources"]["pictures"]["splits"]
    train = Pictures(args.data, splits, label, [], train_transform)
    test = Pictures(args.data, [args.split], label, train.names, test_transform)

    torch.manual_seed(args.seed)
    model = pretrained(args.weights, described["architecture"], len(train.names)).to(DEVICE)
    start = time.perf_counter()
    fit(model, train, recipe, args.lr)
    train_s = time.perf_counter() - start

    model.eval()
    right = 0
    with torch.inference_mode():
        for pictures, labels in DataLoader(test, 64):
            right += int((model(pictures.to(DEVICE)).argmax(1).cpu() == labels).sum())
    args.out.write_text(
        json.dumps({"accuracy": right / len(test), "samples": len(test), "train_s": train_s})
    )
    return 0


def pretrained(folder: Path, architecture: str, classes: int) -> Any:
    """The model with the folder's weights and a classifier of its own."""
    model = timm.create_model(architecture, num_classes=classes)
    weights = load_file(folder / "model.safetensors")
    left_out = model.load_state_dict(
        {name: one for name, one in weights.items() if not name.startswith("classifier.")},
        strict=False,
    )
    assert set(left_out.missing_keys) == {"classifier.weight", "classifier.bias"}, left_out
    return model


def fit(model: Any, train: Pictures, recipe: Any, lr: float) -> None:
    """Train `model` in place, for the recipe's steps."""
    optim, steps = recipe["optim"], recipe["train"]["max_steps"]
    optimizer = create_optimizer_v2(
        model, "adamw", lr, optim["weight_decay"], betas=tuple(optim["betas"]), eps=optim["eps"]
    )
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=steps,
        warmup_t=optim["warmup_steps"],
        warmup_prefix=False,
        t_in_epochs=False,
    )
    batch_size = recipe["data"]["global_batch_size"]
    batches = endless(DataLoader(train, batch_size, shuffle=True, drop_last=True))
    model.train().to(memory_format=torch.channels_last)
    for step in range(steps):
        schedule.step_update(step)
        pictures, labels = next(batches)
        loss = F.cross_entropy(model(pictures.to(DEVICE)), labels.to(DEVICE))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim["grad_clip"])
        optimizer.step()


def endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


if __name__ == "__main__":
    raise SystemExit(main())
