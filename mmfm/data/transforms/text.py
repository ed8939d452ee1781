"""Text: one of a sample's texts ▶ token ids [L] with the tokenizer's special tokens around them.

A sample's texts are in its metadata, ``texts: ["a red dot", …]`` or ``texts: {"en": […], "de":
"…"}``, or in a
``.txt`` file. They are put in Unicode NFC, and empty ones are left out.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mmfm.data.tokenizer import Tokenizer, load_tokenizer
from mmfm.data.transforms._tagged_text import TaggedTextTransform
from mmfm.data.transforms.base import BadSample, Transform, from_spec

META_KEY = "texts"
ENDINGS = ("txt", f"json:{META_KEY}")


@dataclass(kw_only=True)
class Config:
    """`caption`: which text training uses (evaluation always uses the first): any, the first, or
    the first of any language; `languages`: only these, in order.
    """

    caption: Literal["random", "first", "first_of_language"] = "random"
    languages: list[str] | None = None
    max_characters: int = 20_000

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


def contents(files: Mapping[str, bytes], meta: Mapping[str, Any], config: Config) -> list[bytes]:
    """The texts of a sample in UTF-8, tidy, at least one. Raises BadSample if there is none."""
    if META_KEY in meta:
        first = config.caption == "first_of_language"
        found = _texts(meta[META_KEY], config.languages, first)
    elif "txt" in files:
        try:
            found = [files["txt"].decode("utf-8")]
        except UnicodeDecodeError:
            raise BadSample("text not in UTF-8") from None
    else:
        raise BadSample("text missing")
    if not found:
        raise BadSample("text missing", detail=f"none in {config.languages or META_KEY}")
    texts = [clean for text in found if (clean := unicodedata.normalize("NFC", text).strip())]
    if not texts:
        raise BadSample("text empty")
    if max(map(len, texts)) > config.max_characters:
        raise BadSample("text too long", detail=f"{max(map(len, texts))} characters")
    try:
        return [text.encode("utf-8") for text in texts]
    except UnicodeEncodeError:  # JSON can hold half a surrogate pair
        raise BadSample("text not in UTF-8") from None


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
        return contents(files, meta, self.config)

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


def _texts(value: Any, languages: Sequence[str] | None, first_of_each: bool) -> list[str]:
    """All strings of a list, or of a mapping from language to a string or a list; or only the first
    of each language (of a list without languages: the first).
    """
    if isinstance(value, Mapping):
        names = value if languages is None else languages
        groups = [value[name] for name in names if name in value]
    else:
        groups = [value]
    lists = [group if isinstance(group, list) else [group] for group in groups]
    texts = [text for group in lists for text in (group[:1] if first_of_each else group)]
    if not all(isinstance(text, str) for text in texts):
        raise BadSample("text not a string", detail=f"{META_KEY} holds {repr(value)[:100]}")
    return texts
