"""The held-out drawings and titles, embedded by each side with its own preprocessing."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import mmfm
import open_clip
from benchmarks.open_clip.trained.peer_shards import samples
from mmfm.data.evaluation import EvaluationSource
from mmfm.data.manifest import Manifest

Floats = NDArray[np.float32]
BATCH = 64


@dataclass
class Pairs:
    """`image`, `text` [n,E] of length 1, row by row of the same samples."""

    image: Floats
    text: Floats


@dataclass
class HeldOut(Pairs):
    """With the samples' `ids` [n] and `groups` [n] (equal: the same title)."""

    ids: list[str]
    groups: NDArray[np.int64]


def by_mmfm(run: Path, data: Path) -> HeldOut:
    predictor = mmfm.load(run)
    source = EvaluationSource(
        "val",
        Manifest.open(data, ["val"]),
        predictor.specs,
        batch_size=BATCH,
        transforms=predictor.transforms,
    )
    found = predictor.encode_batches(source, ["image", "text"])
    assert found.row_ids["image"] == found.row_ids["text"]
    image, text = found.embedding["image"], found.embedding["text"]
    return HeldOut(image, text, found.row_ids["text"], found.groups["text"])


@torch.no_grad()
def by_open_clip(model: Path, weights: Path | None, tars: list[Path], ids: list[str]) -> Pairs:
    """The samples `ids` by the model in a folder, with its own weights or those of a checkpoint of
    open_clip's trainer.
    """
    name = f"local-dir:{model}"
    net, _, preprocess = open_clip.create_model_and_transforms(name)
    if weights is not None:
        net.load_state_dict(torch.load(weights, weights_only=True)["state_dict"])
    net.eval()
    tokenizer = open_clip.get_tokenizer(name)
    files = {json.loads(s["json"])["id"]: s for tar in tars for s in samples(tar)}
    assert set(files) == set(ids)
    image, text = [], []
    for start in range(0, len(ids), BATCH):
        chosen = [files[i] for i in ids[start : start + BATCH]]
        pictures = [preprocess(Image.open(io.BytesIO(s["png"]))) for s in chosen]
        titles = tokenizer([s["txt"].decode() for s in chosen])
        image.append(net.encode_image(torch.stack(pictures), normalize=True))
        text.append(net.encode_text(titles, normalize=True))
    return Pairs(torch.cat(image).numpy(), torch.cat(text).numpy())
