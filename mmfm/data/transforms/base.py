"""What a modality gives the data pipeline: which files hold it, how one is decoded, how a batch is
put together.

A modality is one module below `mmfm.data.transforms` (or any importable module) with `ENDINGS`, the
file endings that hold it, and a dataclass `Config` with `build(spec) -> Transform`; `spec` is the
plain description of the inputs that the encoder wants (sizes, mean and std, sample rate,
tokenizer). The pipeline knows no modality by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


class Windows(list[T]):
    """Parts of one sample, too long for one input, as `Transform.decode_content` may give them: the
    sample is in its batch once for each part.
    """


class BadSample(ValueError):  # noqa: N818 - the term of the project
    """A sample that can't be used.

    `reason` is one of a few phrases, to be counted; `detail` says more.
    """

    def __init__(self, reason: str, sample_id: str = "", detail: str = "") -> None:
        super().__init__(reason, sample_id, detail)
        self.reason = reason
        self.sample_id = sample_id
        self.detail = detail

    def __str__(self) -> str:
        where = f"{self.sample_id}: " if self.sample_id else ""
        more = f" ({self.detail})" if self.detail else ""
        return f"{where}{self.reason}{more}"


class Transform(ABC):
    """Raw files of one sample ▶ an array; arrays of several samples ▶ tensors of a batch.

    Decoding has two halves, so that outputs of a frozen encoder can be kept by content: `choose`
    draws which of a sample's contents is used (a caption of several), `decode_content` makes the
    array of it.
    """

    augments: bool = False
    """Whether chance changes what training gets of a content. Otherwise outputs of its evaluation
    input may stand for it.
    """

    cheap: bool = False
    """Whether decoding costs so little that inputs are also given where cached outputs are used."""

    def decode(
        self,
        files: Mapping[str, bytes],
        meta: Mapping[str, Any],
        rng: np.random.Generator,
        train: bool,
    ) -> Any:
        """The array of one sample. `files`: ending ▶ bytes; `rng` is used only if `train`.

        Raises BadSample.
        """
        return self.decode_content(self.choose(files, meta, rng, train), rng, train)

    def choose(
        self,
        files: Mapping[str, bytes],
        meta: Mapping[str, Any],
        rng: np.random.Generator,
        train: bool,
    ) -> bytes:
        """The content that is used: the first of `contents`, unless a subclass draws one for
        training.
        """
        return self.contents(files, meta)[0]

    @abstractmethod
    def contents(self, files: Mapping[str, bytes], meta: Mapping[str, Any]) -> list[bytes]:
        """Every content that `choose` can return, at least one.

        Raises BadSample if there is none.
        """

    def content_of(self, item: Any) -> bytes:
        """The content of an item that a caller gives: a path, a file's bytes, or an object.

        What objects and strings mean is the modality's own. Raises ValueError.
        """
        if isinstance(item, bytes | bytearray | memoryview):
            return bytes(item)
        if isinstance(item, Path):
            try:
                return item.read_bytes()
            except OSError as error:
                raise ValueError(f"{item} can't be read: {error.strerror}") from None
        return self.content_of_object(item)

    @abstractmethod
    def content_of_object(self, item: Any) -> bytes:
        """The content of an item that is neither a path nor bytes. Raises ValueError."""

    @abstractmethod
    def decode_content(self, content: bytes, rng: np.random.Generator, train: bool) -> Any:
        """The array of one content, augmented if `train`. Raises BadSample."""

    @abstractmethod
    def collate(self, items: Sequence[Any]) -> dict[str, Any]:
        """The batch keys of this modality from the arrays of one batch (at least one)."""


def media_file(
    files: Mapping[str, bytes], endings: Sequence[str], name: str, max_bytes: int
) -> bytes:
    """The one file of `files` with an ending of `endings`.

    Raises BadSample if it is missing, empty or too large.
    """
    for ending in endings:
        if ending in files:
            data = files[ending]
            if not data:
                raise BadSample(f"empty {name} file")
            if len(data) > max_bytes:
                raise BadSample(f"{name} file too large", detail=f"{len(data)} bytes")
            return data
    raise BadSample(f"{name} missing")


def from_spec(spec: Mapping[str, Any], key: str, kind: type[T], modality: str) -> T:
    """``spec[key]`` as a `kind`; a ValueError names what is missing."""
    if key not in spec:
        raise ValueError(f"the spec of {modality!r} lacks {key!r}; it has {sorted(spec)}")
    value = spec[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"the spec of {modality!r}: {key} = {value!r} should be {kind.__name__}")
    return value
