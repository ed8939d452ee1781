"""Texts in folders, a file a text, a class a folder.

mmfm data make text_folder aclImdb data/imdb split_folders=true label=sentiment
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mmfm_prep.making.draft import Draft, LeftOut
from mmfm_prep.sources._folders import FolderSource

ENDINGS = (".txt", ".md", "")


@dataclass(kw_only=True)
class Config(FolderSource):
    """See `FolderSource`; here every file is a text."""

    def drafts(self) -> Iterator[Draft | LeftOut]:
        return self.of_folder("text", ENDINGS)
