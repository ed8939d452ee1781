"""A table: CSV, TSV, JSON, JSON lines, Parquet or Arrow, one file or a folder of them.

    mmfm data make table reviews.csv data/reviews image=photo 'texts.en=[title, review]' \\
        'labels=[category]' id=asin
    mmfm data make table captions.txt data/flickr8k format=csv image=image root=Images \\
        'texts.en=[caption]' collect=true

`image` and `audio` name columns with paths (relative ones start at `root`, else beside the table)
or, in Parquet, with the bytes themselves or ``{bytes, path}``. Braces make one of several columns:
``clips/{speaker}/{id}.wav``. An empty cell is something that the sample doesn't have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mmfm_prep.making.draft import Draft, LeftOut, Media
from mmfm_prep.progress import say
from mmfm_prep.sample import Labels
from mmfm_prep.sources._collect import collected
from mmfm_prep.sources._files import NamedFiles
from mmfm_prep.sources._splits import split_of, usual_split
from mmfm_prep.sources.base.files import FilesSource
from mmfm_prep.tables import Layout, Row, read_rows, table_files
from mmfm_prep.tables.cells import cell, dated, moment, named_by, number, one_text, text, texts


@dataclass(kw_only=True)
class Config(FilesSource, Layout):
    """`texts`: language ▶ columns. `id` (default: the row's number) is unique; `group` (default:
    the id): equal values mean the same and stay in one split. `split` names a column, whose values
    `splits` may rename; `split_files` takes it from the names of files; without either `shares`
    decide. `time`: a column of times for `split_by`, by `time_format` (of `strptime`) if they are
    neither numbers nor ISO dates. `labels` and `numbers` are columns to learn, `decimal_comma` how
    numbers are written; `label_sets` are columns of several labels, as lists or with a `separator`
    between them. `collect`: the rows of one `id` (default: of one path) are one sample with
    all their texts.
    """

    same_id_hint: ClassVar[str] = "collect=true makes one sample of the rows of an id"

    image: str | None = None
    audio: str | None = None
    texts: dict[str, list[str]] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    label_sets: list[str] = field(default_factory=list)
    separator: str = "|"
    numbers: list[str] = field(default_factory=list)
    decimal_comma: bool = False
    id: str | None = None
    group: str | None = None
    split: str | None = None
    splits: dict[str, str] = field(default_factory=dict)
    split_files: bool = False
    time: str | None = None
    time_format: str | None = None
    collect: bool = False
    root: Path | None = None

    def __post_init__(self) -> None:
        FilesSource.__post_init__(self)
        Layout.__post_init__(self)
        if not self.image and not self.audio and not any(self.texts.values()):
            raise ValueError("name a column: image=…, audio=… or 'texts.en=[…]'")
        if not self.separator:
            raise ValueError("separator is empty: what stands between the labels of a set?")
        if (self.split_by == "time") != (self.time is not None):
            raise ValueError("time=COLUMN and split_by=time need each other")
        if self.time_format and not self.time:
            raise ValueError("time_format needs the column: time=…")
        if self.splits and not self.split:
            raise ValueError("splits renames what a column says: name it, split=COLUMN")
        if self.split and self.split_files:
            raise ValueError("split and split_files: name one of them")

    def drafts(self) -> Iterator[Draft | LeftOut]:
        beside = self.input if self.input.is_dir() else self.input.parent
        self._root = self.root.expanduser() if self.root else beside
        media = [name for name in (self.image, self.audio) if name]
        self._files = {name: NamedFiles(name, self._root) for name in media}
        self._ungrouped = 0
        if self.input.is_dir() and not self.split and not self.split_files:
            self._hint()
        rows = enumerate(read_rows(self.input, self._columns(), self))
        drafts = (self._draft(n, place, row) for n, (place, row) in rows)
        yield from collected(drafts) if self.collect else drafts
        for files in self._files.values():
            files.end()
        if self._ungrouped:
            say(f"group is empty in {self._ungrouped:,} rows, each a group of its own")

    def _hint(self) -> None:
        named = {split_of(file.name) for file in table_files(self.input, self)} - {None}
        if len(named) > 1:
            told = ", ".join(sorted(filter(None, named)))
            say(f"files are named {told}: split_files=true makes these the splits")

    def _columns(self) -> list[str]:
        said = [column for columns in self.texts.values() for column in columns]
        made = [self.image, self.audio, self.id, self.group, *said]
        named = [name for column in made if column for name in named_by(column)]
        plain = [self.split, self.time, *self.labels, *self.label_sets, *self.numbers]
        return [*named, *(name for name in plain if name)]

    def _draft(self, place_in_all: int, place: str, row: Row) -> Draft | LeftOut:
        try:
            image, audio = self._media(row, self.image), self._media(row, self.audio)
            name = self._name(place_in_all, row, image or audio)
            group = one_text(cell(row, self.group), "group") if self.group else ""
            self._ungrouped += bool(self.group and not group)
            numbers = {
                column: number(row[column], column, self.decimal_comma) for column in self.numbers
            }
            one = {column: one_text(row[column], column) for column in self.labels}
            several = {column: self._set(row[column]) for column in self.label_sets}
            told: Labels = {**{c: label for c, label in one.items() if label}, **several}
            return Draft(
                place=place,
                key=f"{place_in_all:08d}",
                id=name,
                group=group or name,
                split=self._split(place, row),
                time=moment(dated(row[self.time], self.time_format)) if self.time else None,
                texts={
                    language: [t for column in columns for t in texts(cell(row, column))]
                    for language, columns in self.texts.items()
                },
                image=image,
                audio=audio,
                labels=told,
                meta={"numbers": numbers} if numbers else {},
            )
        except ValueError as error:
            return LeftOut(place, str(error))

    def _set(self, value: Any) -> list[str]:
        """The labels of a cell, each once; a cell that is empty says that there are none."""
        parts = [part for found in texts(value) for part in found.split(self.separator)]
        return list(dict.fromkeys(name for part in parts if (name := part.strip())))

    def _name(self, place_in_all: int, row: Row, medium: Media) -> str:
        """The sample's id; ValueError where there is none."""
        if self.id:
            name = text(cell(row, self.id))
            if not name:
                raise ValueError("id is empty")
        elif self.collect:
            if not isinstance(medium, Path):
                raise ValueError("no path tells which rows belong together")
            inside = medium.is_relative_to(self._root)
            return (medium.relative_to(self._root) if inside else medium).as_posix()
        else:
            return f"{self.input.stem}/{place_in_all}"
        return name

    def _split(self, place: str, row: Row) -> str | None:
        if self.split_files:
            split = split_of(place.rpartition(":")[0])
            if split is None:
                raise ValueError("the file's name tells no split")
            return split
        if not self.split:
            return None
        split = text(row[self.split])
        if not split:
            raise ValueError("split is empty")
        return self.splits[split] if split in self.splits else usual_split(split)

    def _media(self, row: Row, column: str | None) -> Media:
        return self._files[column].medium(cell(row, column)) if column else None
