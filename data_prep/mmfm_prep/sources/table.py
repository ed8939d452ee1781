"""A table: CSV, TSV, JSON lines or Parquet, one file or a folder of them.

    mmfm data make table reviews.csv data/reviews image=photo 'texts.en=[title, review]' \\
        'labels=[category]' id=asin

`image` and `audio` name columns with paths (relative ones start at `root`, else beside the table)
or, in Parquet, with the bytes themselves or ``{bytes, path}``. An empty cell is something that the
sample doesn't have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmfm_prep.draft import Draft, LeftOut
from mmfm_prep.from_files import FilesSource
from mmfm_prep.sources._cells import media, text, texts
from mmfm_prep.tables import Row, read_rows


@dataclass(kw_only=True)
class Config(FilesSource):
    """`texts`: language ▶ columns. `id` (default: the row's number) is unique; `group` (default:
    the id): equal values mean the same and stay in one split. `split` names a column; without it
    `shares` decide. `labels` and `numbers` are columns to learn.
    """

    image: str | None = None
    audio: str | None = None
    texts: dict[str, list[str]] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    id: str | None = None
    group: str | None = None
    split: str | None = None
    root: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.image and not self.audio and not any(self.texts.values()):
            raise ValueError("name a column: image=…, audio=… or 'texts.en=[…]'")

    def drafts(self) -> Iterator[Draft | LeftOut]:
        folder = self.input if self.input.is_dir() else self.input.parent
        self._root = self.root or folder
        for number, (place, row) in enumerate(read_rows(self.input, self._columns())):
            yield self._draft(number, place, row)

    def _columns(self) -> list[str]:
        one = [self.image, self.audio, self.id, self.group, self.split]
        said = [name for columns in self.texts.values() for name in columns]
        return [name for name in (*one, *said, *self.labels, *self.numbers) if name]

    def _draft(self, number: int, place: str, row: Row) -> Draft | LeftOut:
        name = text(row[self.id]) if self.id else f"{self.input.stem}/{number}"
        group = text(row[self.group]) if self.group else name
        split = text(row[self.split]) if self.split else None
        for value, what in ((name, "id"), (split, "split")):
            if value == "":
                return LeftOut(place, f"{what} is empty")
        try:
            numbers = {column: _number(row[column]) for column in self.numbers}
            return Draft(
                place=place,
                key=f"{number:08d}",
                id=name,
                group=group or name,
                split=split,
                texts={lang: texts(row, columns) for lang, columns in self.texts.items()},
                image=media(row, self.image, self._root),
                audio=media(row, self.audio, self._root),
                labels={column: said for column in self.labels if (said := text(row[column]))},
                meta={"numbers": numbers} if numbers else {},
            )
        except ValueError as error:
            return LeftOut(place, str(error))


def _number(value: Any) -> float | None:
    cell = text(value)
    if not cell:
        return None
    try:
        number = float(cell)
    except ValueError:
        raise ValueError("a number is none") from None
    if not math.isfinite(number):
        raise ValueError("a number is not finite")
    return number
