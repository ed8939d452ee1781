"""What both sides share: the recipe, the initial weights under both names, the batches, the losses.

One side is `benchmarks.open_clip.ours`, the other `benchmarks.open_clip.theirs`; `__main__` runs
both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmfm.data.pipeline import Pipeline
from mmfm.train.recipe import PretrainConfig, load_pretrain
from mmfm.types import Batch
from open_clip.model import CustomTextCLIP

RECIPE = Path(__file__).parent / "recipe.yaml"
PROJECTIONS = {
    "visual.proj": "model.projections.image.maps.linear.weight",
    "text.text_projection": "model.projections.text.maps.linear.weight",
}
LOGIT_SCALE = "objectives.contrastive.logit_scale.log_scale"


def recipe(data: Path) -> PretrainConfig:
    """The recipe on the shards in `data`."""
    return load_pretrain(RECIPE, places(data))


def places(data: Path) -> list[str]:
    """The overrides that point the recipe at the shards in `data`."""
    return [
        f"data.sources.drawings.path={data}",
        f"model.encoders.text.tokenizer={data / 'tokenizer'}",
    ]


def open_clip_model(config: PretrainConfig, tokenizer: Any) -> CustomTextCLIP:
    """The recipe's model as open_clip builds it."""
    image, text = config.model.encoders["image"], config.model.encoders["text"]
    return CustomTextCLIP(config.model.embed_dim, image.theirs(), text.theirs(tokenizer))


def as_mmfm(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's weights under mmfm's names."""
    found = {}
    for name, weight in weights.items():
        if name in PROJECTIONS:
            found[PROJECTIONS[name]] = weight.T.contiguous()
        elif name == "logit_scale":
            found[LOGIT_SCALE] = weight.reshape(1)
        else:
            tower, rest = name.split(".", 1)
            modality = {"visual": "image", "text": "text"}[tower]
            found[f"model.encoders.{modality}.tower.{rest}"] = weight
    return found


def save_batches(pipeline: Pipeline, steps: int, file: Path) -> None:
    """The first global batches of a pipeline of one rank, each as one micro-batch."""
    held = {}
    for step, (batch,) in zip(range(steps), pipeline, strict=False):
        assert len(batch["rows"]["image"]) == len(batch["rows"]["text"]) == len(batch["sample_id"])
        held |= {f"{step}/{key}": batch[key] for key in ("image", "text", "text_mask")}
    save_file(held, file)


def batch_of(file: dict[str, Tensor], step: int, rank: int, ranks: int) -> Batch:
    """A rank's part of a batch. Every sample is its own group, because open_clip knows none."""
    image = file[f"{step}/image"]
    mine = slice(len(image) * rank // ranks, len(image) * (rank + 1) // ranks)
    places = torch.arange(len(image))[mine]
    size = len(places)
    return {
        "image": image[mine],
        "text": file[f"{step}/text"][mine],
        "text_mask": file[f"{step}/text_mask"][mine],
        "rows": {"image": torch.arange(size), "text": torch.arange(size)},
        "group": places,
        "mask_seed": places,
        "sample_hash": places,
        "sample_id": [str(int(place)) for place in places],
        "masked_view": torch.ones(size, dtype=torch.bool),
    }


def load(file: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_file(file)
    return found
