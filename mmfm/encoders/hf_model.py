"""A text model (as BERT) or a waveform model (as wav2vec 2.0) of transformers, by name or folder.

``model.encoders.text: {type: hf_model, name: path/to/folder, max_length: 64, frozen: true}``

A folder holds config.json, model.safetensors, and tokenizer.json (text) or preprocessor_config.json
(audio). Weights are read from safetensors only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmfm.data.tokenizer import load_tokenizer
from mmfm.encoders._corrupt import corrupt, special_ids
from mmfm.encoders._keep_layers import layers_in, picked, stack_of, with_layers
from mmfm.encoders.base import Encoder, EncoderConfig
from mmfm.layers.lengths import by_length
from mmfm.layers.pooling import mean_pool

UNUSED = ("pooler.", "masked_spec_embed")  # tensors that mmfm doesn't use, and some files lack


@dataclass(kw_only=True)
class Config(EncoderConfig):
    """`name`: a folder or a name on the hub; `max_length` (text) in tokens, special ones too.

    `keep_layers`: the encoder is made of these layers of it, counted from 0.
    """

    name: str
    keep_layers: list[int] | None = None
    max_length: int = 64
    max_seconds: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length < 1 or self.max_seconds <= 0:
            raise ValueError("max_length must be at least 1, and max_seconds above 0")
        keep = self.keep_layers
        if keep is not None and (not keep or keep != sorted(set(keep)) or keep[0] < 0):
            raise ValueError(f"keep_layers = {keep}: name each layer once, from the first on")

    def build(self, assets: Path | None = None) -> Encoder:
        source = self.name if assets is None else str(assets)
        model = _load(source, weights=assets is None)
        # Those of a checkpoint that was trained so are the kept ones already.
        kept = assets is not None and len(self.keep_layers or ()) == model.config.num_hidden_layers
        if self.keep_layers and not kept:
            model = with_layers(model, self.keep_layers)
        one_stack = hasattr(model.config, "hidden_size") and not model.config.is_encoder_decoder
        if one_stack and model.main_input_name == "input_ids":
            return HfText(self, source, model).finish()
        if one_stack and hasattr(model, "feature_extractor"):
            return HfWaveform(self, source, model).finish()
        raise ValueError(
            f"{source!r} is a {type(model).__name__} ({model.main_input_name}): hf_model "
            "takes text encoders such as BERT and waveform encoders such as wav2vec 2.0"
        )


class HfEncoder(Encoder):
    """What is done with a `model` of transformers whatever its inputs are."""

    model: Any

    def pick(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        keep = self.settings["keep_layers"]
        if not keep:
            return dict(whole)
        stack = f"model.{stack_of(self.model)}"
        same = layers_in(whole, stack) == len(keep)
        return dict(whole) if same else picked(whole, stack, keep)


class HfText(HfEncoder):
    """[B,L] ids ▶ the last hidden states, and their mean over the valid tokens."""

    def __init__(self, config: Config, source: str, model: Any) -> None:
        super().__init__(config)
        # Unused here, and a module that never runs has no gradient.
        if getattr(model, "pooler", None) is not None:
            model.pooler = None
        self.model = model
        self.tokenizer = load_tokenizer(source)
        self.width = model.config.hidden_size
        vocab_size, most = model.config.vocab_size, _longest(model)
        if self.tokenizer.vocab_size > vocab_size:
            raise ValueError(
                f"the tokenizer of {source!r} has {self.tokenizer.vocab_size} tokens, its model "
                f"only {vocab_size}"
            )
        if config.max_length > most:
            raise ValueError(f"max_length = {config.max_length}: {source!r} takes at most {most}")
        self.spec = {
            "tokenizer": source,
            "max_length": config.max_length,
            "vocab_size": vocab_size,
        }

    def encode(
        self, inputs: Tensor, valid: Tensor | None, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if valid is None:
            tokens: Tensor = self.model(input_ids=inputs).last_hidden_state
            return tokens, mean_pool(tokens, None)
        tokens = by_length(self._run, inputs, valid)
        return tokens, mean_pool(tokens, valid)

    def _run(self, ids: Tensor, valid: Tensor) -> Tensor:
        found: Tensor = self.model(input_ids=ids, attention_mask=valid.long()).last_hidden_state
        return found

    def maskable(self, inputs: Tensor, valid: Tensor | None = None) -> Tensor:
        special = torch.isin(inputs, special_ids(self.tokenizer, inputs.device))
        return self.token_valid(inputs, valid) & ~special

    def mask_inputs(self, inputs: Tensor, masked_BG: Tensor, mask_seed_B: Tensor) -> Tensor:
        return corrupt(inputs, masked_BG, mask_seed_B, self.tokenizer)

    def word_embedding(self) -> nn.Embedding:
        table: nn.Embedding = self.model.get_input_embeddings()
        return table

    def text_frame(self) -> tuple[list[int], list[int]]:
        return self.tokenizer.frame

    def text_of(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)

    def save_assets(self, folder: Path) -> None:
        self.model.config.save_pretrained(folder)
        self.tokenizer.save(folder)


class HfWaveform(HfEncoder):
    """[B,S] waveform ▶ the last hidden states, and their mean over the valid frames.

    Models with group norm in their feature extractor (wav2vec2-base) see the padding of a batch.
    """

    grid_length: int

    def __init__(self, config: Config, source: str, model: Any) -> None:
        from transformers import AutoFeatureExtractor

        super().__init__(config)
        # Both draw from numpy's and torch's global generators: a step could not be repeated.
        model.config.apply_spec_augment = False
        model.config.layerdrop = 0.0
        self.model = model
        self.extractor = AutoFeatureExtractor.from_pretrained(source)
        self.width = model.config.hidden_size
        rate = self.extractor.sampling_rate
        self.spec = {"sample_rate": rate, "max_samples": math.ceil(rate * config.max_seconds)}
        self.grid_length = int(self._frames(torch.tensor(self.spec["max_samples"])))

    def encode(
        self, inputs: Tensor, valid: Tensor | None, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if self.extractor.do_normalize:
            inputs = _standardise(inputs, valid)
        mask = None if valid is None else valid.long()
        inputs = inputs.to(next(self.model.parameters()).dtype)
        tokens: Tensor = self.model(input_values=inputs, attention_mask=mask).last_hidden_state
        return tokens, mean_pool(tokens, self.token_valid(inputs, valid))

    def token_valid(self, inputs: Tensor, valid: Tensor | None = None) -> Tensor:
        B, S = inputs.shape
        lengths = torch.full((B,), S, device=inputs.device) if valid is None else valid.sum(1)
        places = torch.arange(int(self._frames(torch.tensor(S))), device=inputs.device)
        return places[None, :] < self._frames(lengths)[:, None]

    def save_assets(self, folder: Path) -> None:
        self.model.config.save_pretrained(folder)
        self.extractor.save_pretrained(folder)

    def _frames(self, samples: Tensor) -> Tensor:
        """Frames that the strided convolutions make of so many samples."""
        settings = self.model.config
        for kernel, stride in zip(settings.conv_kernel, settings.conv_stride, strict=True):
            samples = torch.div(samples - kernel, stride, rounding_mode="floor") + 1
        return samples.clamp(min=0)


def _standardise(audio_BS: Tensor, valid_BS: Tensor | None) -> Tensor:
    """Each clip to mean 0 and variance 1 over its valid samples; padding becomes 0."""
    valid = torch.ones_like(audio_BS, dtype=torch.bool) if valid_BS is None else valid_BS
    count = valid.sum(1, keepdim=True).clamp(min=1)
    mean = audio_BS.masked_fill(~valid, 0).sum(1, keepdim=True) / count
    centred = (audio_BS - mean).masked_fill(~valid, 0)
    variance = centred.square().sum(1, keepdim=True) / count
    return centred / (variance + 1e-7).sqrt()


def _longest(model: Any) -> int:
    """The most tokens that the model has positions for."""
    most: int = getattr(model.config, "max_position_embeddings", 1_000_000)
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    # RoBERTa and its kin number positions from the padding's id on.
    return most if padding is None else most - padding - 1


def _load(source: str, weights: bool) -> Any:
    """The model of a folder or name, with its weights or freshly initialised."""
    from transformers import AutoConfig, AutoModel  # takes seconds

    try:
        if not weights:
            return AutoModel.from_config(AutoConfig.from_pretrained(source), dtype=torch.float32)
        model, report = AutoModel.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # transformers raises many kinds
        raise ValueError(
            f"can't load {source!r} with transformers: give a folder with config.json and "
            f"model.safetensors, or a name on the hub and the network to reach it ({error})"
        ) from None
    missing = sorted(k for k in report["missing_keys"] if not k.startswith(UNUSED))
    wrong = missing + sorted(str(k) for k in report["mismatched_keys"])
    if wrong:
        raise ValueError(f"the weights of {source!r} lack {len(wrong)} tensors: {wrong[:3]}")
    return model
