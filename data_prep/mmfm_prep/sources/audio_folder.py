"""Sounds in folders, a class a folder.

mmfm data make audio_folder clips data/clips media.audio_rate=16000
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mmfm_prep.making.draft import Draft, LeftOut
from mmfm_prep.sources._folders import FolderSource

ENDINGS = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64"),
    *(".voc", ".sph"),
)


@dataclass(kw_only=True)
class Config(FolderSource):
    """See `FolderSource`."""

    def drafts(self) -> Iterator[Draft | LeftOut]:
        return self.of_folder("audio", ENDINGS)
