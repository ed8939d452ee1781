"""Files at URLs: streamed, tried again, checked, and no secret of a URL in any message.

http and https are read in this process; every other scheme by webdataset's `gopen`, whose commands
(gsutil, ais, curl) are stopped when they fall silent. ``s3:`` and ``hdfs:``, for which `gopen` has
nothing, go through the commands in `COMMANDS`. ``pipe:`` runs a shell command: whoever lets a URL
in decides whether it may be one (`is_url`, `join`).
"""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import random
import re
import select
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException, InvalidURL
from typing import IO, Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

COMMANDS = {
    "s3": ("aws", "s3", "cp", "--only-show-errors", "{url}", "-"),
    "hdfs": ("hdfs", "dfs", "-cat", "{url}"),
}
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
SILENCE_BYTES = 1024
"""A server that sends less than this within `timeout_s` counts as silent."""
_CHUNK = 1 << 18
_TRY_AGAIN = (408, 425, 429)
_pauses = random.Random()  # its own: the global generators belong to the run
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")


class FetchError(ValueError):
    """What is at a URL can't be had."""


class StoppedError(Exception):
    """The fetch was called off by its `stop`."""


class _FinalError(Exception):
    """Another try would end the same."""


class _WrongContentError(Exception):
    """What came is not what was asked for; `what` identifies it."""

    def __init__(self, message: str, what: object) -> None:
        super().__init__(message)
        self.what = what


@dataclass(kw_only=True)
class RemoteConfig:
    """`retries`: tries after a first one that failed. `connections`: shards fetched at once ahead
    of their use, by each rank.
    """

    retries: int = 5
    timeout_s: float = 30.0
    """How long a connection may take, and how long a server may send nothing."""
    connections: int = 4

    def __post_init__(self) -> None:
        if self.retries < 0 or self.timeout_s <= 0 or self.connections < 1:
            raise ValueError(
                f"retries = {self.retries}, timeout_s = {self.timeout_s}, connections ="
                f" {self.connections}: retries from 0, the others positive"
            )


class Traffic:
    """What was fetched by this process: bytes, tries after failures, seconds that reads waited."""

    def __init__(self) -> None:
        self.bytes = self.retries = 0
        self.waited_s = 0.0
        self._lock = threading.Lock()

    def add(self, bytes: int = 0, retries: int = 0, waited_s: float = 0.0) -> None:
        with self._lock:
            self.bytes += bytes
            self.retries += retries
            self.waited_s += waited_s

    def take(self) -> dict[str, Any]:
        """The arguments of `add` that make up all there was since the last call."""
        with self._lock:
            taken = {"bytes": self.bytes, "retries": self.retries, "waited_s": self.waited_s}
            self.bytes = self.retries = 0
            self.waited_s = 0.0
        return taken

    def __reduce__(self) -> tuple[type[Traffic], tuple[()]]:
        return Traffic, ()


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
    """`url` without what may be secret: user, password, query; of a command only its first word."""
    if url.startswith("pipe:"):
        return f"pipe:{(url[5:].split() or [''])[0]} …"
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


def fetch(
    url: str,
    file: IO[bytes],
    remote: RemoteConfig,
    *,
    size: int | None = None,
    sha256: str | None = None,
    announce: Callable[[int], None] = lambda size: None,
    check: Callable[[], None] = lambda: None,
    traffic: Traffic | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Write what is at `url` to the start of `file`, which is cut there.

    `size`, `sha256`: what it must have, where known; `announce` hears the size that a server tells
    where none is. `check` raises ValueError where what `file` now holds is wrong, FetchError where
    another try is in vain. FetchError after the last try, at once where none can help; StoppedError when
    `stop` is set.
    """
    traffic, stop = traffic or Traffic(), stop or threading.Event()
    wrong: object = None
    for attempt in range(remote.retries + 1):
        if attempt:
            traffic.add(retries=1)
            pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1))
            stop.wait(pause * _pauses.uniform(0.5, 1.0))
        if stop.is_set():
            raise StoppedError
        reason: Exception
        try:
            digest = _receive(url, file, remote.timeout_s, size, announce, traffic, stop)
            if sha256 is not None and digest != sha256:
                raise _WrongContentError(f"its sha256 is {digest}, not {sha256}", digest)
            try:
                check()
            except FetchError:
                raise
            except ValueError as error:
                raise _WrongContentError(str(error), digest) from None
            return
        except _FinalError as error:
            reason = error
            break
        except _WrongContentError as error:
            reason = error
            if error.what == wrong:  # twice the same: the fault is the server's file
                break
            wrong = error.what
        except (OSError, HTTPException) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            reason = error
    tries = f"{attempt + 1} {'try' if attempt == 0 else 'tries'}"
    raise FetchError(f"{hide(url)} can't be fetched, {tries}: {_told(reason, url)}")


def _told(reason: Exception, url: str) -> str:
    """`reason` in words, without the secrets of `url`."""
    if isinstance(reason, TimeoutError):
        return "no answer, or nothing more, for timeout_s"
    text = (str(reason) or type(reason).__name__).replace(url, hide(url))
    for secret in filter(None, (urlsplit(url).query, urlsplit(url).netloc.rpartition("@")[0])):
        text = text.replace(secret, "…")
    return text


def _receive(
    url: str,
    file: IO[bytes],
    timeout_s: float,
    size: int | None,
    announce: Callable[[int], None],
    traffic: Traffic,
    stop: threading.Event,
) -> str:
    """One try; the sha256 of what came."""
    file.seek(0)
    digest, got, marked = hashlib.sha256(), 0, 0
    with (_open_http if is_http(url) else _open_other)(url, timeout_s) as (length, read):
        if size is None and length is not None:
            announce(length)
        elif length not in (None, size):
            raise _WrongContentError(f"the server has {length} bytes, not {size}", length)
        expected = length if size is None else size
        mark = time.monotonic()
        while chunk := read():
            if stop.is_set():
                raise StoppedError
            got += len(chunk)
            traffic.add(bytes=len(chunk))
            if expected is not None and got > expected:
                raise _WrongContentError(f"it has more than {expected} bytes", "longer")
            file.write(chunk)
            digest.update(chunk)
            now = time.monotonic()
            if now - mark > timeout_s:
                if got - marked < SILENCE_BYTES:
                    raise TimeoutError
                mark, marked = now, got
    if expected is not None and got < expected:
        raise OSError(f"it ended after {got} of {expected} bytes")
    file.truncate()
    file.flush()
    return digest.hexdigest()


Opened = tuple[int | None, Callable[[], bytes]]
"""The size, where it is told, and what reads the next bytes: none at the end."""


@contextmanager
def _open_http(url: str, timeout_s: float) -> Iterator[Opened]:
    split = urlsplit(url)
    secret, _, host = split.netloc.rpartition("@")
    request = urllib.request.Request(split._replace(netloc=host, fragment="").geturl())
    if secret:  # a redirect to another server does not take it along
        encoded = base64.b64encode(unquote(secret).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {encoded}")
    try:
        response = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        told = f"HTTP {error.code} {error.reason}"
        if error.code < 500 and error.code not in _TRY_AGAIN:
            raise _FinalError(told) from None
        raise OSError(told) from None
    except urllib.error.URLError as error:
        raise error.reason if isinstance(error.reason, OSError) else error from None
    except InvalidURL:
        raise _FinalError("the URL has blanks or other characters that must be quoted") from None
    with response:
        told = response.headers.get("Content-Length", "")
        length = int(told) if told.isdecimal() else None
        left = length

        def read() -> bytes:
            nonlocal left
            chunk: bytes = b"" if left == 0 else response.read1(_CHUNK)
            left = None if left is None else left - len(chunk)
            return chunk

        yield length, read


@contextmanager
def _open_other(url: str, timeout_s: float) -> Iterator[Opened]:
    from webdataset.gopen import Pipe, gopen, gopen_schemes  # late: it takes a second to import

    scheme = url.partition(":")[0]
    try:
        if scheme in COMMANDS and scheme not in gopen_schemes:
            opened = Pipe([w.format(url=url) for w in COMMANDS[scheme]], mode="rb", bufsize=8192)
        else:
            opened = gopen(url, "rb")
    except FileNotFoundError as error:
        raise _FinalError(
            f"{error.filename or error} is not there: install it, or mend PATH"
        ) from None
    except (ValueError, ImportError) as error:
        raise _FinalError(str(error)) from None
    except Exception as error:  # an opener may bring errors of its own
        raise OSError(f"{type(error).__name__}: {error}") from None
    if not isinstance(opened, Pipe):
        with opened:
            yield None, partial(opened.read, _CHUNK)
        return
    opened.timeout = timeout_s
    try:
        yield None, partial(_read_pipe, opened.stream.fileno(), timeout_s)
    except BaseException:
        opened.proc.kill()
        opened.ignore_errors = True
        raise
    finally:
        try:
            opened.close()
        except subprocess.TimeoutExpired:
            opened.proc.kill()
            raise OSError("its command does not end") from None
        except OSError:  # its text has the command with all its secrets
            raise OSError(f"its command ended with status {opened.status}") from None


def _read_pipe(descriptor: int, timeout_s: float) -> bytes:
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    if not waiting.poll(timeout_s * 1000):
        raise TimeoutError
    return os.read(descriptor, _CHUNK)
