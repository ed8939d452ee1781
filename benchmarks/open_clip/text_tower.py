"""open_clip's text tower as an encoder of mmfm: ``type: benchmarks.open_clip.text_tower``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from mmfm.data.tokenizer import Tokenizer, load_tokenizer
from mmfm.encoders.base import Encoder, EncoderConfig
from open_clip.model import CLIPTextCfg, _build_text_tower


@dataclass(kw_only=True)
class Config(EncoderConfig):
    """As open_clip's `CLIPTextCfg`, over the words of one of mmfm's tokenizers."""

    tokenizer: str
    max_length: int = 32
    width: int = 128
    layers: int = 4
    heads: int = 4

    def theirs(self, tokenizer: Tokenizer) -> CLIPTextCfg:
        return CLIPTextCfg(
            context_length=self.max_length,
            vocab_size=tokenizer.vocab_size,
            width=self.width,
            heads=self.heads,
            layers=self.layers,
            pad_id=tokenizer.pad_id,
            eos_id=tokenizer.eos_id,
            pool_type="eos",
        )

    def build(self, assets: Path | None = None) -> Encoder:
        return TextTower(self, self.tokenizer if assets is None else str(assets)).finish()


class TextTower(Encoder):
    """The tower without its projection, which is mmfm's linear one."""

    def __init__(self, config: Config, tokenizer: str) -> None:
        super().__init__(config)
        self.tokenizer = load_tokenizer(tokenizer)
        self.width = config.width
        self.spec = {
            "tokenizer": tokenizer,
            "max_length": config.max_length,
            "vocab_size": self.tokenizer.vocab_size,
        }
        settings = replace(config.theirs(self.tokenizer), output_tokens=True)
        self.tower = _build_text_tower(config.width, settings)
        self.tower.text_projection = None

    def encode(
        self, inputs: Tensor, valid: Tensor | None, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        # The tower's causal mask is of its longest text only.
        short = self.tower.context_length - inputs.shape[1]
        pooled, tokens = self.tower(F.pad(inputs, (0, short), value=self.tower.pad_id))
        return tokens[:, : inputs.shape[1]], pooled

    def save_assets(self, folder: Path) -> None:
        self.tokenizer.save(folder)
