"""Text: one of a sample's texts ▶ token ids [L] with the tokenizer's special tokens around them.

`mmfm.data.transforms._texts` says where a sample's texts are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfm.data.tokenizer import Tokenizer, load_tokenizer
from mmfm.data.transforms._tagged_text import TaggedTextTransform
from mmfm.data.transforms._texts import META_KEY, TextsConfig
from mmfm.data.transforms.base import BadSample, Transform, from_spec

ENDINGS = ("txt", f"json:{META_KEY}")


@dataclass(kw_only=True)
class Config(TextsConfig):
    """See `mmfm.data.transforms._texts`."""

    def build(self, spec: Mapping[str, Any]) -> Transform:
        """The transform for an encoder with ``spec = {tokenizer, max_length, vocab_size}``; with
        ``tags`` in it, as a head adds them, that of `mmfm.data.transforms._tagged_text`.
        """
        name = from_spec(spec, "tokenizer", str, "text")
        tokenizer = load_tokenizer(name)
        vocab_size = from_spec(spec, "vocab_size", int, "text")
        if tokenizer.vocab_size > vocab_size:
            raise ValueError(
                f"tokenizer {name!r} has {tokenizer.vocab_size} tokens, but the text encoder only "
                f"{vocab_size} (vocab_size); use the tokenizer that the encoder was made for"
            )
        max_length = from_spec(spec, "max_length", int, "text")
        if "tags" in spec:
            return TaggedTextTransform(self, tokenizer, max_length, **spec["tags"])
        return TextTransform(self, tokenizer, max_length)


@dataclass
class TextTransform(Transform):
    """See the module; `decode` gives [L] int64 with L <= max_length, a content is the text in
    UTF-8.
    """

    config: Config
    tokenizer: Tokenizer
    max_length: int
    cheap = True

    def choose(
        self,
        files: Mapping[str, bytes],
        meta: Mapping[str, Any],
        rng: np.random.Generator,
        train: bool,
    ) -> bytes:
        contents = self.contents(files, meta)
        draw = train and self.config.caption != "first" and len(contents) > 1
        return contents[int(rng.integers(len(contents)))] if draw else contents[0]

    def contents(self, files: Mapping[str, bytes], meta: Mapping[str, Any]) -> list[bytes]:
        return self.config.contents(files, meta)

    def content_of_object(self, item: Any) -> bytes:
        """Of a text as a string."""
        if not isinstance(item, str):
            raise ValueError(f"a text must be a string, not {type(item).__name__}")
        return self.contents({}, {META_KEY: [item]})[0]

    def decode_content(self, content: bytes, rng: np.random.Generator, train: bool) -> Any:
        ids = self.tokenizer.encode(content.decode("utf-8"), self.max_length)
        if not ids:
            raise BadSample("text has no tokens")
        return np.asarray(ids, dtype=np.int64)

    def collate(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """{"text": [B, L] int64, "text_mask": [B, L] bool, True where there is a token}."""
        length = max(len(item) for item in items)
        text = torch.full((len(items), length), self.tokenizer.pad_id, dtype=torch.int64)
        mask = torch.zeros(len(items), length, dtype=torch.bool)
        for row, item in enumerate(items):
            text[row, : len(item)] = torch.from_numpy(item)
            mask[row, : len(item)] = True
        return {"text": text, "text_mask": mask}
