"""What sources of files in folders share: a class by folder, splits, groups, captions."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mmfm_prep.errors import PrepError
from mmfm_prep.making.choose import TRAIN
from mmfm_prep.making.draft import Draft, LeftOut
from mmfm_prep.progress import say
from mmfm_prep.sources._splits import split_of
from mmfm_prep.sources.base.files import FilesSource
from mmfm_prep.tables.layout import check_encoding


@dataclass(kw_only=True)
class FolderSource(FilesSource):
    """``<class>/…/file``, or with `split_folders` ``<split>/<class>/…/file``; files with no folder
    above them have no class. A text file of the same stem is the caption, in `language`, written in
    `encoding`. `label`
    names the field that the classes go into, `class_folder` another folder for them: 1 is the one
    inside the first, -1 the one that holds the file.

    `lists`: split ▶ a file, in the folder, of paths in it, one a line; what is in none is in
    ``train``. `group`: a regular expression whose first group, in a file's path, is its group.
    """

    split_folders: bool = False
    class_folder: int = 0
    lists: dict[str, Path] = field(default_factory=dict)
    group: str | None = None
    label: str = "class"
    language: str = "en"
    encoding: str = "utf-8-sig"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_encoding(self.encoding)
        if self.split_folders and self.lists:
            raise ValueError("split_folders and lists: name one of them")
        try:
            self._pattern = re.compile(self.group) if self.group else None
        except re.error as error:
            raise ValueError(f"group = {self.group!r} is no regular expression: {error}") from None
        if self._pattern and self._pattern.groups < 1:
            raise ValueError(f"group = {self.group!r}: put what names the group in (…)")

    def of_folder(self, modality: str, endings: Collection[str]) -> Iterator[Draft | LeftOut]:
        if not self.input.is_dir():
            raise PrepError(f"{self.input} is no folder")
        self._listed = _listed(self.input, self.lists)
        self._classes: set[str] = set()
        self._ungrouped = self._inner = 0
        self._hint_splits()
        number = -1
        for path in sorted(_files(self.input)):
            inside = path.relative_to(self.input)
            ending = path.suffix.lower()
            if ending == ".txt" and modality != "text":  # a caption
                continue
            if ending not in endings:
                yield LeftOut(str(inside), f"not a file of {', '.join(endings)}")
                continue
            number += 1
            yield self._draft(number, path, inside, modality)
        self._hint(number + 1)

    def _draft(self, number: int, path: Path, inside: Path, modality: str) -> Draft | LeftOut:
        folders = list(inside.parent.parts)
        if self.split_folders and not folders:
            return LeftOut(str(inside), "lies in no split's folder")
        name = inside.as_posix()
        split = self._split(name, inside, folders)
        if split == "":
            return LeftOut(str(inside), "is in none of the lists")
        caption = path if modality == "text" else path.with_suffix(".txt")
        try:
            texts = caption.read_text(encoding=self.encoding) if caption.is_file() else ""
        except UnicodeDecodeError:
            told = self.encoding.removesuffix("-sig").upper()
            return LeftOut(str(inside), f"its text is not {told}")
        return Draft(
            place=name,
            key=f"{number:08d}",
            id=name,
            group=self._group(name),
            split=split,
            texts={self.language: [texts]},
            image=path if modality == "image" else None,
            audio=path if modality == "audio" else None,
            labels=self._labels(folders),
        )

    def _split(self, name: str, inside: Path, folders: list[str]) -> str | None:
        """The split, its folder taken out of `folders`; "" where no list has the file."""
        if self.split_folders:
            folder = folders.pop(0)
            return split_of(folder) or folder
        if not self.lists:
            return None
        listed = self._listed.get(name) or self._listed.get(inside.with_suffix("").as_posix())
        return listed or ("" if TRAIN in self.lists else TRAIN)

    def _group(self, name: str) -> str:
        if self._pattern is None:
            return name
        found = self._pattern.search(name)
        if found and found[1]:
            return found[1]
        self._ungrouped += 1
        return name

    def _labels(self, folders: list[str]) -> dict[str, str]:
        try:
            label = folders[self.class_folder]
        except IndexError:
            return {}
        self._classes.add(label)
        self._inner += len(folders) > 1
        return {self.label: label}

    def _hint_splits(self) -> None:
        """Says so if folders look like splits that nobody asked for."""
        found = {split_of(p.name) for p in self.input.iterdir() if p.is_dir()} - {None}
        if len(found) > 1 and not self.split_folders and not self.lists:
            told = ", ".join(sorted(filter(None, found)))
            say(f"folders are named {told}: split_folders=true makes these the splits")

    def _hint(self, files: int) -> None:
        """Says so if groups or classes look like mistakes; PrepError if no path has a group."""
        if self._ungrouped and self._ungrouped == files:
            raise PrepError(f"group = {self.group!r} is found in no path of {self.input}")
        if self._ungrouped:
            say(f"group: not found in {self._ungrouped:,} paths, each a group of its own")
        if len(self._classes) == 1 and self._inner:
            (name,) = self._classes
            say(f"every {self.label} is {name!r}: class_folder=-1 takes the folder of each file")


def _listed(folder: Path, lists: dict[str, Path]) -> dict[str, str]:
    """Path, as the lists have it, ▶ split."""
    found: dict[str, str] = {}
    for split, name in lists.items():
        try:
            lines = (folder / name).read_text(encoding="utf-8-sig").splitlines()
        except FileNotFoundError:
            raise PrepError(f"lists: there is no {folder / name}") from None
        except UnicodeDecodeError:
            raise PrepError(f"lists: {folder / name} is not UTF-8") from None
        for line in filter(None, map(str.strip, lines)):
            path = line.removeprefix("./")
            if found.setdefault(path, split) != split:
                raise PrepError(f"lists: {path} is in {found[path]} and in {split}")
    return found


def _files(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The files below `folder` that aren't hidden, links to folders followed, dangling links too.
    OSError where a folder can't be read.
    """
    here = folder.resolve()
    if here in above:  # a link into what is read already
        return
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _files(path, (*above, here))
        elif path.is_file() or not path.exists():
            yield path
