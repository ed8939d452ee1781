"""Sentences with a tag for each token, in CoNLL's columns: a token a line, a blank line between
sentences.

    mmfm data make conll wnut17 data/wnut17            # train.conll, dev.conll, test.conll
    mmfm data make conll en_ewt data/pos token=1 tag=3 scheme=plain

The text is the tokens joined by single spaces; these are in the sample's JSON as ``tokens``, their
tags as ``tags``. ``-DOCSTART-`` and ``# newdoc`` begin a document, whose sentences are one group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mmfm_prep.errors import PrepError
from mmfm_prep.making.draft import Draft, LeftOut
from mmfm_prep.progress import say
from mmfm_prep.sources._bio import Tags
from mmfm_prep.sources._columns import Sentence, sentences
from mmfm_prep.sources._splits import split_of
from mmfm_prep.sources.base.files import FilesSource
from mmfm_prep.tables.layout import check_encoding

_ENDINGS = (
    *(".conll", ".conllu", ".conll03", ".bio", ".iob", ".iob2", ".bioes", ".txt", ".tsv"),
    *(".train", ".training", ".dev", ".devel", ".val", ".valid", ".test", ".testa", ".testb"),
    ".annotated",
)


@dataclass(kw_only=True)
class Config(FilesSource):
    """The input is a file, or a folder of files whose names tell splits. `token`, `tag`: numbers of
    columns from 0, or from -1 for the last, or their names in `columns`. `scheme`: ``bio`` takes
    BIO, IOB1, IOBES and BILOU, and writes BIO; ``plain`` takes tags as they are.
    """

    token: int | str = 0
    tag: int | str = -1
    columns: list[str] = field(default_factory=list)
    scheme: Literal["bio", "plain"] = "bio"
    language: str = "en"
    encoding: str = "utf-8-sig"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_encoding(self.encoding)
        if self.filters.text.personal == "mask":
            raise ValueError("filters.text.personal=mask would leave tokens as they are: use drop")
        self._token, self._tag = self._place("token"), self._place("tag")
        if self._token == self._tag:
            raise ValueError(f"token and tag are the same column: {self.token}")

    def _place(self, name: str) -> int:
        column = getattr(self, name)
        if isinstance(column, int):
            return column
        if column not in self.columns:
            told = f"columns = {self.columns}" if self.columns else "name them: 'columns=[a, b]'"
            raise ValueError(f"{name} = {column!r} is a column without a number; {told}")
        return self.columns.index(column)

    def drafts(self) -> Iterator[Draft | LeftOut]:
        tags = Tags(self.scheme)
        number = 0
        files, unnamed = self._files()
        for file in unnamed:
            yield LeftOut(file.name, "the file's name tells no split")
        for file in files:
            for place, sentence in enumerate(sentences(file, self.encoding)):
                yield self._draft(file, place, number, sentence, tags)
                number += 1
        tags.check(self.input)
        self.notes["tags"] = dict(sorted(tags.counts.items()))
        self.notes["tags_repaired"] = tags.repaired
        if message := tags.message():
            say(message)

    def _files(self) -> tuple[list[Path], list[Path]]:
        """The files to read, and those beside them that tell no split."""
        if not self.input.is_dir():
            return [self.input], []
        found = sorted(p for p in self.input.iterdir() if p.suffix.lower() in _ENDINGS)
        if not found:
            raise PrepError(f"{self.input} holds no file that ends with {', '.join(_ENDINGS)}")
        named = [path for path in found if split_of(path.name)]
        return named or found, [path for path in found if path not in named] if named else []

    def _draft(
        self, file: Path, place: int, number: int, sentence: Sentence, tags: Tags
    ) -> Draft | LeftOut:
        where = f"{file.name}:{sentence.line}"
        try:
            tokens, told = sentence.read(self._token, self._tag)
            written = tags.read(told)
        except ValueError as error:
            return LeftOut(where, str(error))
        name = f"{file.name}/{place}"
        return Draft(
            place=where,
            key=f"{number:08d}",
            id=name,
            group=name if sentence.document is None else f"{file.name}/{sentence.document}",
            split=split_of(file.name),
            texts={self.language: [" ".join(tokens)]},
            meta={"tokens": tokens, "tags": written},
        )
