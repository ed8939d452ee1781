"""CoNLL's columns, sentence by sentence."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mmfm_prep.errors import PrepError

# Only ahead of a sentence's tokens, so that a token "#" is none.
_COMMENT = re.compile(r"#\s*(id\b|text\b|[\w.:-]+\s*=|newdoc\b|newpar\b)")
_NEW_DOCUMENT = re.compile(r"#\s*newdoc\b(?:\s+id\s*=\s*(.*))?")
_DOCSTART = "-DOCSTART-"
_NO_WORD = re.compile(r"\d+[-.]\d+")  # CoNLL-U: words written together, and words left out


@dataclass
class Sentence:
    """The cells of a sentence's tokens, from `line` on; `document`: None where there are none."""

    line: int
    document: str | None
    rows: list[list[str]] = field(default_factory=list)

    def read(self, token: int, tag: int) -> tuple[list[str], list[str]]:
        """The tokens, in NFC, and tags in these columns; ValueError where a line lacks one."""
        tokens, tags = [], []
        for cells in self.rows:
            try:
                word, told = cells[token], cells[tag]
            except IndexError:
                raise ValueError("a line lacks the column of its token or tag") from None
            if len(cells) == 1:
                raise ValueError("a line has no tag")
            word = unicodedata.normalize("NFC", word).strip()
            if not word or not told.strip():
                raise ValueError("a token or tag is empty")
            tokens.append(word)
            tags.append(told.strip())
        return tokens, tags


def sentences(path: Path, encoding: str) -> Iterator[Sentence]:
    """The sentences of a file. Cells are parted by tabs if there is one in the line, else by white
    space. PrepError where the file isn't in `encoding`.
    """
    documents = 0
    document: str | None = None
    current: Sentence | None = None
    try:
        with path.open(encoding=encoding) as file:
            for number, line in enumerate(file, 1):
                line = line.rstrip("\r\n")
                if not line.strip():
                    if current:
                        yield current
                    current = None
                    continue
                if current is None and _COMMENT.match(line):
                    if new := _NEW_DOCUMENT.match(line):
                        documents += 1
                        document = new[1] or f"document {documents}"
                    continue
                cells = line.split("\t") if "\t" in line else line.split()
                if cells[0].strip() == _DOCSTART:
                    documents += 1
                    document = f"document {documents}"
                    continue
                if len(cells) == 10 and _NO_WORD.fullmatch(cells[0]):
                    continue
                current = current or Sentence(number, document)
                current.rows.append(cells)
    except UnicodeError:
        raise PrepError(
            f"{path} is not {encoding.removesuffix('-sig').upper()}: say what it is, e.g. "
            "encoding=latin-1"
        ) from None
    if current:
        yield current
