"""Text whose tokens carry tags: ``tokens: ["Ada", "left"], tags: ["B-person", "O"]`` in the JSON.

What a head for token classification asks for with ``spec = {…, "tags": {field, names, overlap}}``.
Each token is cut into sub-words; its tag belongs to the first of them. A text that is longer than
the encoder takes is cut into windows that overlap: training draws one of them, evaluation reads
all, and each token is judged in the window that shows most around it. A text without ``tokens`` is
split at white space.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmfm.data.tokenizer import Tokenizer
from mmfm.data.transforms._texts import TextsConfig
from mmfm.data.transforms.base import BadSample, Transform, Windows
from mmfm.types import IGNORE_INDEX

NO_WORD = -1
OTHER_TAGS = ("B-?", "I-?", "?")
"""What stands in evaluation for a tag that is none of the head's names, with the numbers behind
theirs: nothing that could be predicted.
"""

Ints = NDArray[np.int64]


class Window(NamedTuple):
    """`ids` [L] of sub-words, `words` [L]: the token that begins there and is judged here, else
    `NO_WORD`; all `tokens` of the text and their `tags` [W], `IGNORE_INDEX` where there is none.
    """

    ids: Ints
    words: Ints
    tokens: list[str]
    tags: Ints


@dataclass
class TaggedTextTransform(Transform):
    """See the module; a content is the tokens and tags as JSON."""

    config: TextsConfig
    tokenizer: Tokenizer
    max_length: int
    field: str
    names: list[str]
    overlap: int
    cheap = True

    def __post_init__(self) -> None:
        prefix, suffix = self.tokenizer.frame
        self._room = self.max_length - len(prefix) - len(suffix)
        if not 0 <= self.overlap < self._room:
            raise ValueError(
                f"head.overlap = {self.overlap} must be from 0 to below the {self._room} sub-words "
                "that the text's encoder takes (its max_length without the special tokens)"
            )
        self._number = {name: number for number, name in enumerate(self.names)}

    def contents(self, files: Mapping[str, bytes], meta: Mapping[str, Any]) -> list[bytes]:
        if "tokens" not in meta:
            text = self.config.contents(files, meta)[0].decode("utf-8")
            return [json.dumps({"tokens": text.split()}).encode()]
        tokens, tags = meta["tokens"], meta.get(self.field)
        if not _are_strings(tokens):
            raise BadSample("tokens not a list of strings", detail=repr(tokens)[:100])
        if sum(map(len, tokens)) > self.config.max_characters:
            raise BadSample("text too long", detail=f"{sum(map(len, tokens))} characters")
        if tags is None:
            return [json.dumps({"tokens": tokens}).encode()]
        if not _are_strings(tags) or len(tags) != len(tokens):
            count = f"{len(tags)} for {len(tokens)} tokens" if isinstance(tags, list) else "no list"
            raise BadSample("tags don't fit the tokens", detail=count)
        return [json.dumps({"tokens": tokens, "tags": tags}).encode()]

    def content_of_object(self, item: Any) -> bytes:
        """Of a text, split at white space, or of a list of its tokens."""
        tokens = item.split() if isinstance(item, str) else list(item)
        return self.contents({}, {"tokens": tokens})[0]

    def decode_content(
        self, content: bytes, rng: np.random.Generator, train: bool
    ) -> Windows[Window]:
        found = json.loads(content)
        tokens: list[str] = found["tokens"]
        named: list[str] = found.get("tags", [])
        unknown = sorted(set(named) - set(self._number))
        if unknown and train:
            some = ", ".join(unknown[:3])
            raise BadSample("unknown tag", detail=f"{some} is none of {', '.join(self.names)}")
        others = {tag: len(self.names) + self._kind_of_other(tag) for tag in unknown}
        tags = [(self._number | others)[tag] for tag in named] or [IGNORE_INDEX] * len(tokens)
        ids, of_tokens = self.tokenizer.encode_words(tokens)
        if not ids:
            raise BadSample("text has no tokens")
        words = np.array(of_tokens)
        starts = np.flatnonzero(np.diff(words, prepend=NO_WORD))  # of tokens, among the sub-words
        spans = window_spans(len(ids), self._room, self.overlap)
        if train:
            spans = [spans[int(rng.integers(len(spans)))]]
        owner = owners(starts, spans)
        prefix, suffix = self.tokenizer.frame
        windows: Windows[Window] = Windows()
        for number, (first, end) in enumerate(spans):
            begins = np.full(end - first, NO_WORD)
            mine = starts[owner == number]
            begins[mine - first] = words[mine]
            framed = np.array([*prefix, *ids[first:end], *suffix], dtype=np.int64)
            places = np.pad(begins, (len(prefix), len(suffix)), constant_values=NO_WORD)
            windows.append(Window(framed, places, tokens, np.array(tags, dtype=np.int64)))
        return windows

    @staticmethod
    def _kind_of_other(tag: str) -> int:
        marks = [name[0] for name in OTHER_TAGS]
        return marks.index(tag[0]) if tag[:2] in ("B-", "I-") else len(OTHER_TAGS) - 1

    def collate(self, items: Sequence[Window]) -> dict[str, Any]:
        """``text`` and ``text_mask`` as ever, with ``text_words`` [B,L], ``text_tags`` [B,W] and
        ``text_tokens``, for each row the list of its tokens.
        """
        length = max(len(item.ids) for item in items)
        most = max(len(item.tags) for item in items)
        text = torch.full((len(items), length), self.tokenizer.pad_id)
        mask = torch.zeros(len(items), length, dtype=torch.bool)
        words = torch.full((len(items), length), NO_WORD)
        tags = torch.full((len(items), most), IGNORE_INDEX)
        for row, item in enumerate(items):
            text[row, : len(item.ids)] = torch.from_numpy(item.ids)
            mask[row, : len(item.ids)] = True
            words[row, : len(item.ids)] = torch.from_numpy(item.words)
            tags[row, : len(item.tags)] = torch.from_numpy(item.tags)
        batch: dict[str, Tensor] = {"text": text, "text_mask": mask}
        tokens = [item.tokens for item in items]
        return {**batch, "text_words": words, "text_tags": tags, "text_tokens": tokens}


def window_spans(length: int, room: int, overlap: int) -> list[tuple[int, int]]:
    """(first, end) of windows of at most `room` sub-words over `length` of them, each with at
    least `overlap` in common with the one before.
    """
    if length <= room:
        return [(0, length)]
    firsts = [*range(0, length - room, room - overlap), length - room]
    return [(first, first + room) for first in firsts]


def owners(starts: Ints, spans: Sequence[tuple[int, int]]) -> Ints:
    """For each sub-word in `starts` the number of the span that shows most on its shorter side, the
    first of several; `NO_WORD` for one in no span.
    """
    first, end = np.array(spans).T[:, :, None]
    inside = (first <= starts) & (starts < end)
    margin = np.where(inside, np.minimum(starts - first, end - 1 - starts), -1)
    return np.where(inside.any(0), margin.argmax(0), NO_WORD)


def _are_strings(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)
