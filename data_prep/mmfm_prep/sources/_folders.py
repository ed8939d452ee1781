"""What `image_folder` and `audio_folder` share: files below a folder, a class by folder."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmfm_prep.draft import Draft, LeftOut
from mmfm_prep.from_files import FilesSource


@dataclass(kw_only=True)
class FolderSource(FilesSource):
    """``<class>/…/file``, or with `split_folders` ``<split>/<class>/…/file``; files with no folder
    above them have no class. A text file of the same stem is the caption, in `language`. `label`
    names the field that the classes go into.
    """

    split_folders: bool = False
    label: str = "class"
    language: str = "en"

    def of_folder(self, modality: str, endings: Collection[str]) -> Iterator[Draft | LeftOut]:
        number = -1
        for path in sorted(_files(self.input)):
            inside = path.relative_to(self.input)
            ending = path.suffix.lower()
            if ending == ".txt":
                continue
            if ending not in endings:
                yield LeftOut(str(inside), f"not a file of {', '.join(endings)}")
                continue
            number += 1
            yield self._draft(number, path, inside, modality)

    def _draft(self, number: int, path: Path, inside: Path, modality: str) -> Draft | LeftOut:
        folders = list(inside.parent.parts)
        if self.split_folders and not folders:
            return LeftOut(str(inside), "lies in no split's folder")
        name = inside.as_posix()
        split = folders.pop(0) if self.split_folders else None
        caption = path.with_suffix(".txt")
        try:
            texts = caption.read_text(encoding="utf-8-sig") if caption.is_file() else ""
        except UnicodeDecodeError:
            return LeftOut(str(inside), "its text is not UTF-8")
        return Draft(
            place=name,
            key=f"{number:08d}",
            id=name,
            group=name,
            split=split,
            texts={self.language: [texts]},
            image=path if modality == "image" else None,
            audio=path if modality == "audio" else None,
            labels={self.label: folders[0]} if folders else {},
        )


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
