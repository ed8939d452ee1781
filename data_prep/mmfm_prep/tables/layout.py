"""What a table's file doesn't say of itself."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from typing import Literal

Format = Literal["csv", "tsv", "jsonl", "json", "parquet", "arrow"]
_NAMED = {"tab": "\t", "\\t": "\t", "pipe": "|", "comma": ",", "semicolon": ";", "space": " "}


@dataclass(kw_only=True)
class Layout:
    """How tables are read.

    `format`: by default what the file's ending says. Of CSV and TSV: `delimiter` (a character, or
    ``tab``, ``pipe``, ``comma``, ``semicolon``, ``space``), `columns` (the names, for a file
    without a header), `quotes=false` (quotation marks are text, no cell spans lines). Of JSON:
    `records`, the dotted name of the list that holds the rows. `parse`: columns whose cells are
    strings that hold JSON or a Python list. `encoding`: of all that is text.
    """

    format: Format | None = None
    delimiter: str | None = None
    columns: list[str] = field(default_factory=list)
    quotes: bool = True
    records: str | None = None
    parse: list[str] = field(default_factory=list)
    encoding: str = "utf-8-sig"

    def __post_init__(self) -> None:
        if self.delimiter == "":
            raise ValueError(
                "delimiter is empty: for | say delimiter=pipe, else tab or a character"
            )
        if self.delimiter is not None:
            self.delimiter = _NAMED.get(self.delimiter, self.delimiter)
            if len(self.delimiter) > 1 and self.quotes:
                raise ValueError(
                    f"delimiter = {self.delimiter!r} is more than one character: such a file has "
                    "no quotation marks, say so with quotes=false"
                )
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"columns = {self.columns}: a name is there twice")
        check_encoding(self.encoding)


def check_encoding(name: str) -> None:
    """ValueError where Python knows no encoding of that name."""
    try:
        codecs.lookup(name)
    except LookupError:
        raise ValueError(f"encoding = {name!r}: Python knows none of that name") from None
