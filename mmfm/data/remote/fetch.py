"""Files at URLs: fetched with limits on silence, tried again, checked; no secret of a URL is told.

with open("shard.tar", "w+b") as file:
    fetch("https://host/data/000.tar", file, RemoteConfig(), sha256="…")
"""

from __future__ import annotations

import errno
import hashlib
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from typing import IO, Any
from urllib.parse import urlsplit

from mmfm.data.remote.openers import FinalError, open_url
from mmfm.data.remote.urls import hide

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
SILENCE_BYTES = 1024
"""A server that sends less than this within `timeout_s` counts as silent."""
_pauses = random.Random()  # its own: the global generators belong to the run


class FetchError(ValueError):
    """What is at a URL can't be had."""


class StoppedError(Exception):
    """The fetch was called off by its `stop`."""


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


def fetch(
    url: str,
    file: IO[bytes],
    remote: RemoteConfig,
    *,
    size: int | None = None,
    sha256: str | None = None,
    most: int | None = None,
    announce: Callable[[int], None] = lambda size: None,
    check: Callable[[], None] = lambda: None,
    traffic: Traffic | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Write what is at `url` to the start of `file`, which is cut there.

    `size`, `sha256`: what it must have, where known; `announce` hears the size that a server tells
    where none is. `most`: the bytes that it may have, whatever is told. `check` raises ValueError
    where what `file` now holds is wrong, FetchError where another try is in vain. FetchError after
    the last try, at once where none can help; StoppedError when `stop` is set.
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
            digest = _receive(url, file, remote.timeout_s, size, most, announce, traffic, stop)
            if sha256 is not None and digest != sha256:
                raise _WrongContentError(f"its sha256 is {digest}, not {sha256}", digest)
            try:
                check()
            except FetchError:
                raise
            except ValueError as error:
                raise _WrongContentError(str(error), digest) from None
            return
        except FinalError as error:
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
    most: int | None,
    announce: Callable[[int], None],
    traffic: Traffic,
    stop: threading.Event,
) -> str:
    """One try; the sha256 of what came."""
    file.seek(0)
    digest, got, marked = hashlib.sha256(), 0, 0
    with open_url(url, timeout_s) as (length, read):
        if size is None and length is not None:
            announce(length)
        elif length not in (None, size):
            raise _WrongContentError(f"the server has {length} bytes, not {size}", length)
        expected = length if size is None else size
        if most is not None and (expected or 0) > most:
            raise FinalError(f"it has {expected} bytes, more than the {most} that it may have")
        mark = time.monotonic()
        while chunk := read():
            if stop.is_set():
                raise StoppedError
            got += len(chunk)
            traffic.add(bytes=len(chunk))
            if expected is not None and got > expected:
                raise _WrongContentError(f"it has more than {expected} bytes", "longer")
            if most is not None and got > most:
                raise FinalError(f"it has more than the {most} bytes that it may have")
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
