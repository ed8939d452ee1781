"""Pictures in folders, a class a folder, as torchvision's ImageFolder reads them.

mmfm data make image_folder photos data/photos media.image_longest=512 media.image_format=jpg
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mmfm_prep.making.draft import Draft, LeftOut
from mmfm_prep.sources._folders import FolderSource

ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif"),
    *(".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".xpm", ".ico"),
)


@dataclass(kw_only=True)
class Config(FolderSource):
    """See `FolderSource`."""

    def drafts(self) -> Iterator[Draft | LeftOut]:
        return self.of_folder("image", ENDINGS)
