"""Any image model of timm, from scratch, from a local folder, or with pretrained weights by tag.

``model.encoders.image: {type: timm_model, weights: path/to/folder, frozen: true, token_grid: 4}``

A folder holds model.safetensors (timm's names) and timm's config.json:
``{"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 224, 224], "mean": ..., ...}}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mmfm.encoders.base import Encoder, EncoderConfig
from mmfm.layers.batch_norms import GroupNorms
from mmfm.layers.patch_embed import patchify

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CPU_CHUNK = 4
"""Pictures that run together on CPU without gradients: their feature maps then stay in its caches,
about 1.5 times as fast at 224 px as 32 together.
"""
HEAD = "~"
"""A name of no layer, so that timm groups it with the classifier, which is not there."""
DATA_KEYS = ("input_size", "mean", "std", "interpolation")


@dataclass(kw_only=True)
class Config(EncoderConfig):
    """`name`: a timm model, `pretrained` from the hub or not; or `weights`: a folder with one.

    `image_size`: other than the network's own, for those that take any (convolutional ones).
    `token_grid`: average the feature map to k×k tokens; unset, each place of the map is a token.
    `batch_norm_size`: batch norms train, over groups of so many pictures; unset, they are at rest.
    """

    name: str | None = None
    weights: Path | None = None
    pretrained: bool = False
    image_size: int | None = None
    token_grid: int | None = None
    batch_norm_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is None and self.weights is None:
            raise ValueError("name a timm model (name: ...) or a folder with one (weights: ...)")
        if self.weights is not None and self.pretrained:
            raise ValueError("weights and pretrained exclude each other: keep one of them")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size = {self.image_size} must be at least 1")
        if self.token_grid is not None and self.token_grid < 1:
            raise ValueError(f"token_grid = {self.token_grid} must be at least 1")
        if self.batch_norm_size is not None and self.frozen:
            raise ValueError("batch_norm_size trains batch norms, frozen = true none: keep one")

    def freeze(self) -> None:
        super().freeze()
        self.batch_norm_size = None

    def build(self, assets: Path | None = None) -> Encoder:
        folder = self.weights if assets is None else assets
        if folder is None:
            assert self.name is not None
            return TimmModel(self, self.name, *_by_name(self.name, self.pretrained)).finish()
        architecture, settings, arguments = _read_config(folder)
        if self.name not in (None, architecture):
            raise ValueError(f"name = {self.name}, but {folder / CONFIG_FILE} says {architecture}")
        model = _create(architecture, **arguments)
        if assets is None:
            classifier = settings.get("classifier", model.default_cfg.get("classifier"))
            load_weights(model, folder / WEIGHTS_FILE, classifier)
        return TimmModel(self, architecture, model, settings, arguments).finish()


class TimmModel(Encoder):
    """[B,3,S,S] ▶ the last feature map's places [B,G,D], row by row, and timm's pooled vector."""

    grid_length: int
    grid: tuple[int, int]

    def __init__(
        self,
        config: Config,
        architecture: str,
        model: Any,
        settings: Mapping[str, Any],
        arguments: Mapping[str, Any],
    ) -> None:
        super().__init__(config)
        self.model: Any = model
        if config.batch_norm_size is not None:
            self.norms = GroupNorms(model, config.batch_norm_size)
        self.token_grid = config.token_grid
        data = timm.data.resolve_data_config(pretrained_cfg=dict(settings))
        if config.image_size is not None:
            data["input_size"] = (3, config.image_size, config.image_size)
        self.image_size = data["input_size"][-1]
        if tuple(data["input_size"]) != (3, self.image_size, self.image_size):
            raise ValueError(f"{architecture}: input_size {data['input_size']} is not [3, S, S]")
        if data["interpolation"] not in ("bilinear", "bicubic"):
            raise ValueError(
                f"{architecture}: interpolation {data['interpolation']!r} is neither bilinear nor "
                "bicubic"
            )
        self.spec = {
            "size": self.image_size,
            "mean": list(data["mean"]),
            "std": list(data["std"]),
            "interpolation": data["interpolation"],
        }
        self.description = {
            "architecture": architecture,
            "pretrained_cfg": {key: data[key] for key in DATA_KEYS},
            "model_args": dict(arguments),
        }
        self.width = self.model.num_features
        # timm's head may widen its input; tokens and pooled have one width here.
        self.own_pooling = getattr(model, "head_hidden_size", self.width) != self.width
        self.grid = self._probe()
        self.grid_length = self.grid[0] * self.grid[1]
        if self.image_size % self.grid[0] == 0 and self.image_size % self.grid[1] == 0:
            self.patch = (self.image_size // self.grid[0], self.image_size // self.grid[1])
            self.patch_dim = 3 * self.patch[0] * self.patch[1]

    def encode(
        self, inputs: Tensor, valid: Tensor | None, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if self.norms is not None and self.training:
            tokens, pooled = self.norms(self._run, inputs)
            return tokens, pooled
        if inputs.device.type == "cpu" and not torch.is_grad_enabled() and len(inputs) > CPU_CHUNK:
            parts = [self._run(part) for part in torch.split(inputs, CPU_CHUNK)]
            return torch.cat([tokens for tokens, _ in parts]), torch.cat([p for _, p in parts])
        return self._run(inputs)

    def _run(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        inputs = inputs.to(next(self.model.parameters()).dtype)
        # Depthwise convolutions run about 1.4 times as fast on CPU in this layout.
        features = self.model.forward_features(inputs.contiguous(memory_format=torch.channels_last))
        map_BDHW = self._map(features)
        if self.own_pooling:
            pooled = map_BDHW.mean(dim=(2, 3))
        else:
            pooled = self.model.forward_head(features, pre_logits=True)
        if self.token_grid is not None:
            map_BDHW = F.adaptive_avg_pool2d(map_BDHW, self.token_grid)
        return map_BDHW.flatten(2).transpose(1, 2), pooled

    def mask_inputs(self, inputs: Tensor, masked_BG: Tensor, mask_seed_B: Tensor) -> Tensor:
        """Masked patches become the mean colour (0 after normalisation)."""
        masked = masked_BG.view(-1, 1, *self.grid).float()
        return inputs.masked_fill(F.interpolate(masked, size=inputs.shape[2:]) > 0, 0.0)

    def patchify(self, inputs: Tensor, valid: Tensor | None = None) -> Tensor:
        if not self.has_patches:
            return super().patchify(inputs, valid)
        return patchify(inputs, *self.patch)

    def depths(self) -> dict[str, int]:
        """As timm groups the model's layers; what it would count to the head is of the last one."""
        matcher = self.model.group_matcher(coarse=False)
        named = [*self.model.named_parameters(), (HEAD, None)]
        whole: Any = SimpleNamespace(named_parameters=lambda: named)
        groups = timm.models.group_parameters(whole, matcher, reverse=True)
        last = groups.pop(HEAD) - 1
        return {f"model.{name}": min(depth, last) for name, depth in groups.items()}

    def save_assets(self, folder: Path) -> None:
        text = json.dumps(self.description, indent=1, sort_keys=True)
        (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")

    def _map(self, features: Tensor) -> Tensor:
        """timm's features as [B,D,H,W]: they come as NCHW, NHWC or, from a ViT, as a sequence."""
        if features.ndim == 4:
            first = features.shape[1] == self.width
            return features if first else features.permute(0, 3, 1, 2)
        patches = features[:, getattr(self.model, "num_prefix_tokens", 0) :]
        side = round(patches.shape[1] ** 0.5)
        return patches.transpose(1, 2).reshape(len(patches), self.width, side, side)

    @torch.no_grad()
    def _probe(self) -> tuple[int, int]:
        """The grid of tokens, from a run: not every timm model tells its stride."""
        self.eval()
        try:
            features = self.model.forward_features(
                torch.zeros(1, 3, self.image_size, self.image_size)
            )
        except (AssertionError, RuntimeError) as error:
            raise ValueError(
                f"{self.description['architecture']} does not take pictures of image_size = "
                f"{self.image_size}: {error}"
            ) from None
        height, width = self._map(features).shape[2:]
        if self.token_grid is None:
            return height, width
        if self.token_grid > min(height, width):
            raise ValueError(
                f"token_grid = {self.token_grid} is finer than the feature map, {height}x{width}"
            )
        return self.token_grid, self.token_grid


def load_weights(model: nn.Module, file: Path, classifier: Any) -> None:
    """Load `file` into `model`; all must match but the `classifier` (name or names) that it lacks.

    Raises:
        ValueError: naming the tensors that are missing, unknown or of another shape.
    """
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"can't read the weights {file}: {error}") from None
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    state = {k: v for k, v in state.items() if not k.startswith(tuple(f"{h}." for h in heads))}
    own = model.state_dict()
    for key, value in own.items():  # a counter that evaluation doesn't use; older files lack it
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, value)
    wrong = [f"{k} is missing" for k in own.keys() - state.keys()]
    wrong += [f"{k} is unknown to the model" for k in state.keys() - own.keys()]
    wrong += [
        f"{k} has shape {list(state[k].shape)}, not {list(own[k].shape)}"
        for k in own.keys() & state.keys()
        if own[k].shape != state[k].shape
    ]
    if wrong:
        some = "; ".join(sorted(wrong)[:3])
        raise ValueError(f"{file} doesn't fit the model in {len(wrong)} tensors: {some}")
    model.load_state_dict(state)


def _read_config(folder: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(architecture, timm's pretrained_cfg, arguments of the model) of a folder's config.json."""
    file = folder / CONFIG_FILE
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        return config["architecture"], config["pretrained_cfg"], config.get("model_args") or {}
    except (OSError, ValueError) as error:
        raise ValueError(f"can't read {file}: {error}") from None
    except (KeyError, TypeError):
        raise ValueError(f"{file} must hold architecture and pretrained_cfg") from None


def _by_name(name: str, pretrained: bool) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    model = _create(name, pretrained=pretrained)
    return model, dict(model.pretrained_cfg), {}


def _create(name: str, pretrained: bool = False, **arguments: Any) -> Any:
    """The model without its classifier."""
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('.')[0]}*")[:5])
        raise ValueError(f"timm has no model {name!r}" + (f"; near: {near}" if near else ""))
    if not pretrained:
        return timm.create_model(name, num_classes=0, **arguments)
    try:
        # With its classifier: only so does timm insist on every tensor of the file.
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub's client raises many kinds
        raise ValueError(
            f"can't load pretrained weights of {name!r}: {error}. Without network give a folder "
            "(weights: ...)"
        ) from None
    model.reset_classifier(0)
    return model
