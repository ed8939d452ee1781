"""Teachers for the tiny model: checkpoints, and encoders of timm and transformers in folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml

from mmfm import checkpoint
from mmfm.data.tokenizer import load_tokenizer
from mmfm.predictor import build
from tests import tiny


def settings(tokenizer: str, width: int = 16) -> dict[str, Any]:
    """The tiny model in another width, its embeddings too."""
    recipe = tiny.task_settings(tokenizer)
    recipe["model"]["embed_dim"] = width
    for part in (*recipe["model"]["encoders"].values(), recipe["model"]["fusion"]):
        part["width"] = width
    return recipe


def write(folder: Path, recipe: dict[str, Any], seed: int = 1) -> str:
    """The checkpoint of a model with random weights, large enough to tell samples apart."""
    torch.manual_seed(seed)
    task = build(recipe)
    for parameter in task.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)

    def files(hidden: Path) -> None:
        (hidden / "config.yaml").write_text(yaml.safe_dump(recipe))
        described = {"specs": task.specs, "transforms": {}, "label": None}
        (hidden / "preprocessing.json").write_text(json.dumps(described))
        task.model.save_assets(hidden / "assets")

    return str(checkpoint.write(folder, 1, 32, {"model": task.state_dict().items()}, files, {}))


def timm_folder(folder: Path) -> dict[str, Any]:
    """Settings of a convolutional network that takes the tiny model's pictures."""
    import timm
    from safetensors.torch import save_file

    folder.mkdir()
    torch.manual_seed(2)
    save_file(timm.create_model("test_efficientnet").state_dict(), folder / "model.safetensors")
    half = [0.5, 0.5, 0.5]
    inputs = {"input_size": [3, 8, 8], "mean": half, "std": half, "interpolation": "bicubic"}
    inputs["classifier"] = "classifier"
    text = json.dumps({"architecture": "test_efficientnet", "pretrained_cfg": inputs})
    (folder / "config.json").write_text(text)
    return {"type": "timm_model", "weights": str(folder)}


def bert_folder(folder: Path, tokenizer: str) -> dict[str, Any]:
    """Settings of a text encoder with the tiny model's tokenizer."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(3)
    small = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1}
    model = BertModel(BertConfig(vocab_size=300, num_attention_heads=2, **small))
    model.save_pretrained(folder)
    load_tokenizer(tokenizer).save(folder)
    return {"type": "hf_model", "name": str(folder), "max_length": 8}
