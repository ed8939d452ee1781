"""One start for both sides: open_clip's own initial weights, as each of them loads weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.open_clip import same
from mmfm import checkpoint
from mmfm.data.tokenizer import load_tokenizer
from mmfm.task import PretrainTask
from mmfm.train.recipe import PretrainConfig
from mmfm.weights import load_named


@dataclass(frozen=True)
class Start:
    """`mmfm`: a checkpoint for the recipe's ``init``. `open_clip`: a folder for open_clip's
    ``local-dir:``, with the model's settings, its weights and its tokenizer.
    """

    mmfm: Path
    open_clip: Path


def write(config: PretrainConfig, seed: int, folder: Path) -> Start:
    """Draw the weights by `seed` and write them for both."""
    image, text = config.model.encoders["image"], config.model.encoders["text"]
    tokenizer = load_tokenizer(text.tokenizer)
    torch.manual_seed(seed)
    weights = same.open_clip_model(config, tokenizer).state_dict()
    found = Start(folder / "mmfm", folder / "open_clip")

    task = PretrainTask.build(config)
    scale = task.state_dict()[same.LOGIT_SCALE]  # `init` leaves it as it is
    torch.testing.assert_close(scale, weights["logit_scale"].reshape(1))
    load_named(task, same.as_mmfm(weights), "open_clip's start")
    named = {"model": task.state_dict().items()}
    checkpoint.write(found.mmfm, 0, 0, named, lambda folder: None, {})

    shutil.copytree(text.tokenizer, found.open_clip)
    save_file(weights, found.open_clip / "open_clip_model.safetensors")
    spec = task.specs["image"]
    settings = {
        "model_cfg": {
            "embed_dim": config.model.embed_dim,
            "vision_cfg": given(image.theirs()),
            "text_cfg": {**given(text.theirs(tokenizer)), "hf_tokenizer_name": "in this folder"},
            "custom_text": True,
        },
        "preprocess_cfg": {key: spec[key] for key in ("mean", "std", "interpolation")},
    }
    (found.open_clip / "open_clip_config.json").write_text(json.dumps(settings))
    return found


def given(settings: Any) -> dict[str, Any]:
    """Without what is None: open_clip's factory takes that for a value."""
    return {name: value for name, value in asdict(settings).items() if value is not None}
