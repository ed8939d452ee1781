"""Plain WebDataset tars on a disk: which of them a path names, and their indexes."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterable
from pathlib import Path

from mmfm.data.endings import Endings
from mmfm.data.index import IndexHeader, ShardIndex, cache_path, index_path
from mmfm.data.tar import build_index

logger = logging.getLogger(__name__)


def find_tars(path: str) -> list[Path]:
    """The tars that `path` names, each once, in order."""
    if Path(path).is_dir():
        tars: Iterable[Path] = sorted(Path(path).glob("*.tar"))
    elif "{" in path and not Path(path).exists():
        from webdataset.shardlists import expand_urls  # late: it takes a second to import

        tars = [tar for part in expand_urls(path) for tar in _match(part)]
    else:
        tars = _match(path)
    unique = list(dict.fromkeys(t.absolute() for t in tars))
    if not unique:
        raise ValueError(
            f"no data at {path}: neither a manifest.json nor a .tar. Name a folder, a tar or a"
            " pattern"
        )
    return unique


def _match(path: str) -> list[Path]:
    if Path(path).exists() or not glob.has_magic(path):
        if not Path(path).is_file():
            raise ValueError(f"there is no data at {path}")
        return [Path(path)]
    return sorted(Path(p) for p in glob.glob(path, recursive=True))


def make_index(tar: Path, endings: Endings | None = None) -> ShardIndex:
    """Build the index of `tar` and keep it beside the tar, else in the user's cache.

    Where neither can be written it is only returned, with a warning.
    """
    logger.info("indexing %s", tar)
    index = build_index(tar, endings)
    for path in (index_path(tar), cache_path(tar)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            index.save(path)
            return index
        except OSError:
            continue
    logger.warning("the index of %s can't be kept, neither beside it nor in the user's cache", tar)
    return index


def describes_file(tar: Path, endings: str, header: IndexHeader) -> bool:
    """Whether an index was made of this very file; its content is not read again to find out."""
    stat = tar.stat()
    same_file = (header.bytes, header.mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    return same_file and header.endings == endings
