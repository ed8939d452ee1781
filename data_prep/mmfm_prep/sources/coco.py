"""Captions and categories as COCO's JSON files have them, a sample a picture.

    mmfm data make coco coco data/coco                     # annotations/, train2017/, val2017/
    mmfm data make coco captions.json data/mine images=photos

The input is a JSON file, or a folder with some, in ``annotations/`` or, without that, in the folder
itself and those in it. A file's name, else its folder's, tells its split.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmfm_prep.errors import PrepError
from mmfm_prep.making.draft import Draft, LeftOut
from mmfm_prep.sources._splits import split_of
from mmfm_prep.sources.base.files import FilesSource

_ANNOTATIONS = "annotations"
_TRIED = 10


@dataclass(kw_only=True)
class Config(FilesSource):
    """`images`: the folder of the pictures, looked for beside the JSON if it isn't given. `kinds`:
    of a folder, what names of the files to read contain; of pictures that several name all is put
    together. `split`: that of all pictures, whatever names tell. `label`: the field for the
    category of pictures that have only one; all are in the JSON as ``categories``.
    """

    images: Path | None = None
    kinds: list[str] = field(default_factory=lambda: ["captions"])
    split: str | None = None
    language: str = "en"
    label: str = "category"

    def drafts(self) -> Iterator[Draft | LeftOut]:
        number = 0
        for split, paths in self._files().items():
            pictures: dict[str, _Picture] = {}
            for path in paths:
                yield from _gather(path, pictures)
            if not pictures:
                continue
            folder = _folder(paths[0], self.images, split, list(pictures)[:_TRIED])
            for name, picture in pictures.items():
                yield self._draft(number, paths[0], folder, name, split, picture)
                number += 1

    def _files(self) -> dict[str, list[Path]]:
        """The JSON files by split, "" where names tell none."""
        if not self.input.is_dir():
            return {self._split_of(self.input): [self.input]}
        inside = self.input / _ANNOTATIONS
        found = sorted(
            inside.glob("*.json")
            if inside.is_dir()
            else [*self.input.glob("*.json"), *self.input.glob("*/*.json")]
        )
        by_split: dict[str, list[Path]] = {}
        for path in found:
            if any(kind in path.name for kind in self.kinds):
                by_split.setdefault(self._split_of(path), []).append(path)
        if not by_split:
            names = dict.fromkeys(path.name for path in found)
            raise PrepError(
                f"{self.input} has no JSON whose name contains {' or '.join(self.kinds)}, but "
                f"{', '.join(list(names)[:5]) or 'none at all'}: say what else, e.g. "
                "'kinds=[instances]'"
            )
        return by_split

    def _split_of(self, path: Path) -> str:
        return self.split or split_of(path.name) or split_of(path.parent.name) or ""

    def _draft(
        self, number: int, path: Path, folder: Path, name: str, split: str, picture: _Picture
    ) -> Draft:
        labels = {self.label: picture.categories[0]} if len(picture.categories) == 1 else {}
        return Draft(
            place=f"{path.name}:{name}",
            key=f"{number:08d}",
            id=f"{split}/{name}" if split else name,
            group=name,
            split=split or None,
            texts={self.language: picture.captions},
            image=folder / name,
            labels=labels,
            meta={"categories": picture.categories} if picture.categories else {},
        )


@dataclass
class _Picture:
    captions: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)


def _gather(path: Path, pictures: dict[str, _Picture]) -> Iterator[LeftOut]:
    """Put what a file says into `pictures`, by file name; what can't be understood is yielded."""
    content = _read(path)
    names: dict[Any, str] = {}
    for number, entry in enumerate(content["images"]):
        name = entry.get("file_name")
        if not isinstance(name, str) or not isinstance(entry.get("id"), int | str):
            yield LeftOut(f"{path.name}:images.{number}", "image has no id or no file_name")
            continue
        names[entry["id"]] = name
        pictures.setdefault(name, _Picture())
    categories = {c.get("id"): str(c.get("name")) for c in content["categories"]}
    for number, entry in enumerate(content[_ANNOTATIONS]):
        place = f"{path.name}:{_ANNOTATIONS}.{number}"
        of, caption = entry.get("image_id"), entry.get("caption")
        picture = pictures.get(names.get(of, "")) if isinstance(of, int | str) else None
        category = categories.get(entry.get("category_id"))
        if picture is None:
            yield LeftOut(place, "annotation of an image that is not listed")
        elif isinstance(caption, str):
            picture.captions.append(caption)
        elif category is None:
            yield LeftOut(place, "annotation has neither caption nor category")
        elif category not in picture.categories:
            picture.categories.append(category)


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The lists of a file; PrepError where it has none."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise PrepError(f"{path}: not JSON: {error}") from None
    found = {}
    for name in ("images", _ANNOTATIONS, "categories"):
        value = content.get(name) if isinstance(content, dict) else None
        if value is None and name == "categories":
            value = []
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise PrepError(
                f"{path} is not as COCO writes it: it has no list of objects {name!r}. The source "
                "table reads other JSON"
            )
        found[name] = value
    return found


def _folder(path: Path, images: Path | None, split: str, names: list[str]) -> Path:
    """The folder that has one of the files `names`, which `path` lists; PrepError without one."""
    top = path.parent.parent if path.parent.name == _ANNOTATIONS else path.parent
    told = path.stem.partition("_")[2]  # train2017 of captions_train2017
    bases = [images.expanduser()] if images else [top, top / "images"]
    folders = [base / name for base in bases for name in dict.fromkeys((told, split, "")) if name]
    folders += bases
    for folder in folders:
        if any((folder / name).is_file() for name in names):
            return folder
    tried = ", ".join(map(str, folders))
    raise PrepError(f"{names[0]} of {path} is in none of {tried}: say images=FOLDER")
