"""Text transformer over word-piece ids, bidirectional (as BERT) or causal (as CLIP's text tower).

``model.encoders.text: {type: text_transformer, tokenizer: path/to/folder, width: 256, layers: 4,
heads: 4}``
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mmfm.data.tokenizer import load_tokenizer
from mmfm.encoders._corrupt import corrupt, special_ids
from mmfm.encoders.base import Encoder, EncoderConfig
from mmfm.layers.pooling import mean_pool
from mmfm.layers.position import LearnedPosition
from mmfm.layers.transformer import TransformerConfig, init_weights


@dataclass(kw_only=True)
class Config(EncoderConfig, TransformerConfig):
    """`tokenizer`: a folder with tokenizer.json, or a name on the hub; `max_length` in tokens,
    special ones included.
    """

    tokenizer: str
    max_length: int = 64
    bidirectional: bool = True

    def __post_init__(self) -> None:
        EncoderConfig.__post_init__(self)
        TransformerConfig.__post_init__(self)
        if self.max_length < 1:
            raise ValueError(f"max_length = {self.max_length} must be at least 1")

    def build(self, assets: Path | None = None) -> Encoder:
        return TextTransformer(self, self.tokenizer if assets is None else str(assets)).finish()


class TextTransformer(Encoder):
    """[B,L] ids ▶ token outputs after the last norm, and their mean over the valid ones."""

    def __init__(self, config: Config, tokenizer: str) -> None:
        super().__init__(config)
        self.tokenizer = load_tokenizer(tokenizer)
        self.width = config.width
        self.spec = {
            "tokenizer": tokenizer,
            "max_length": config.max_length,
            "vocab_size": self.tokenizer.vocab_size,
        }
        self.embedding = nn.Embedding(self.tokenizer.vocab_size, config.width)
        self.embedding.apply(init_weights)
        self.position = LearnedPosition(config.max_length, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.transformer = config.transformer(causal=not config.bidirectional)

    def encode(
        self, inputs: Tensor, valid: Tensor | None, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        x = self.dropout(self.position(self.embedding(inputs)))
        tokens = self.transformer(x, valid)
        return tokens, mean_pool(tokens, valid)

    def maskable(self, inputs: Tensor, valid: Tensor | None = None) -> Tensor:
        special = torch.isin(inputs, special_ids(self.tokenizer, inputs.device))
        return self.token_valid(inputs, valid) & ~special

    def mask_inputs(self, inputs: Tensor, masked_BG: Tensor, mask_seed_B: Tensor) -> Tensor:
        return corrupt(inputs, masked_BG, mask_seed_B, self.tokenizer)

    def word_embedding(self) -> nn.Embedding:
        return self.embedding

    def text_frame(self) -> tuple[list[int], list[int]]:
        return self.tokenizer.frame

    def text_of(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)

    def save_assets(self, folder: Path) -> None:
        self.tokenizer.save(folder)
