"""The texts of a sample: in its metadata, ``texts: ["a red dot", …]`` or ``texts: {"en": […], "de":
"…"}``, or in a ``.txt`` file. They are put in Unicode NFC, and empty ones are left out.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mmfm.data.transforms.base import BadSample

META_KEY = "texts"


@dataclass(kw_only=True)
class TextsConfig:
    """`caption`: which text training uses (evaluation always uses the first): any, the first, or
    the first of any language; `languages`: only these, in order.
    """

    caption: Literal["random", "first", "first_of_language"] = "random"
    languages: list[str] | None = None
    max_characters: int = 20_000

    def contents(self, files: Mapping[str, bytes], meta: Mapping[str, Any]) -> list[bytes]:
        """The texts of a sample in UTF-8, tidy, at least one. BadSample where there is none."""
        if META_KEY in meta:
            first = self.caption == "first_of_language"
            found = _texts(meta[META_KEY], self.languages, first)
        elif "txt" in files:
            try:
                found = [files["txt"].decode("utf-8")]
            except UnicodeDecodeError:
                raise BadSample("text not in UTF-8") from None
        else:
            raise BadSample("text missing")
        if not found:
            raise BadSample("text missing", detail=f"none in {self.languages or META_KEY}")
        texts = [clean for text in found if (clean := unicodedata.normalize("NFC", text).strip())]
        if not texts:
            raise BadSample("text empty")
        if max(map(len, texts)) > self.max_characters:
            raise BadSample("text too long", detail=f"{max(map(len, texts))} characters")
        try:
            return [text.encode("utf-8") for text in texts]
        except UnicodeEncodeError:  # JSON can hold half a surrogate pair
            raise BadSample("text not in UTF-8") from None


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
