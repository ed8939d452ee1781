"""URLs of shards: which there are, what may be told of them, and the shards' names."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from urllib.parse import quote, unquote, urlsplit, urlunsplit

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")


def is_url(path: str) -> bool:
    """Whether `path` names no local file: ``scheme://…`` or ``pipe:…``; a ``file:`` is local."""
    scheme = _SCHEME.match(path)
    return path.startswith("pipe:") or bool(
        scheme and path[scheme.end() :].startswith("//") and scheme[0].lower() != "file:"
    )


def local_path(path: str) -> str:
    """`path` without ``file:``."""
    if not path.startswith("file:"):
        return path
    split = urlsplit(path)
    if split.netloc not in ("", "localhost"):
        raise ValueError(f"{path}: a file: URL has no host; write file:///folder")
    return unquote(split.path)


def has_scheme(name: str) -> bool:
    """Whether an opener could take `name` for a URL or a command."""
    return bool(_SCHEME.match(name))


def hide(url: str) -> str:
    """`url` without what may be secret: user, password, query; of a command only its tar's name."""
    if url.startswith("pipe:"):
        return f"pipe:… {posixpath.basename(_tar_in(url))}".rstrip()
    split = urlsplit(url)
    return urlunsplit((split.scheme, split.netloc.rpartition("@")[2], split.path, "", ""))


def is_http(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))


def join(folder: str, name: str) -> str:
    """The URL of the file `name`, a relative path, below `folder`; a query is kept (a token)."""
    if not is_http(folder):
        return f"{folder.rstrip('/')}/{name}"
    split = urlsplit(folder)
    path = f"{split.path.rstrip('/')}/{quote(name, errors='surrogateescape')}"
    return urlunsplit((split.scheme, split.netloc, path, split.query, ""))


def folder_of(url: str, file: str) -> str:
    """The URL of the folder of `file`, where `url` is that of either."""
    if is_http(url):
        split = urlsplit(url)
        return split._replace(path=split.path.removesuffix(f"/{file}")).geturl()
    return url.removesuffix(f"/{file}")


def expand(pattern: str) -> list[str]:
    """The URLs of a brace pattern, or of several joined by ``::``."""
    from webdataset.shardlists import expand_urls  # late: it takes a second to import

    return list(dict.fromkeys(expand_urls(pattern)))


def shard_names(urls: Sequence[str]) -> list[str]:
    """Their paths below the folder that they share, as for local tars; of a command, that of the
    last .tar it names. ValueError where two would be the same.
    """
    paths = [_path_in(url, number) for number, url in enumerate(urls)]
    folder = posixpath.commonpath([posixpath.dirname(path) for path in paths])
    names = [posixpath.relpath(path, folder or ".") for path in paths]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two of the URLs mean a shard {twice!r}: give them different names")
    return names


def _path_in(url: str, number: int) -> str:
    if url.startswith("pipe:"):
        url = _tar_in(url) or f"{number:06d}.tar"
    split = urlsplit(url)
    path = unquote(split.path) if is_http(url) else split.path
    return (split.netloc.rpartition("@")[2] + path).lstrip("/")


def index_url(url: str) -> str:
    """The URL of the index of the tar at `url`."""
    if not is_http(url):
        return f"{url}.idx"
    split = urlsplit(url)
    return split._replace(path=f"{split.path}.idx").geturl()


def _tar_in(command: str) -> str:
    """The last word of a command that ends in .tar, or nothing."""
    return next(reversed(re.findall(r"[^\s'\"]+\.tar\b", command.removeprefix("pipe:"))), "")
