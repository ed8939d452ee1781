"""A URL as a stream that never hangs: http and https here, the rest by webdataset's `gopen`.

A command that `gopen` runs (gsutil, ais, curl, a ``pipe:``) is stopped when it falls silent.
``s3:`` and ``hdfs:``, for which it has nothing, go through `COMMANDS`. Both openers raise OSError
where another try may help and `FinalError` where none can.
"""

from __future__ import annotations

import base64
import os
import select
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from http.client import InvalidURL
from urllib.parse import unquote, urlsplit

from mmfm.data.remote.urls import is_http

COMMANDS = {
    "s3": ("aws", "s3", "cp", "--only-show-errors", "{url}", "-"),
    "hdfs": ("hdfs", "dfs", "-cat", "{url}"),
}
_CHUNK = 1 << 18
_TRY_AGAIN = (408, 425, 429)


class FinalError(Exception):
    """Another try would end the same."""


Opened = tuple[int | None, Callable[[], bytes]]
"""The size, where it is told, and what reads the next bytes: none at the end."""


def open_url(url: str, timeout_s: float) -> AbstractContextManager[Opened]:
    """The stream at `url`; nothing on it takes longer than `timeout_s` (custom openers aside)."""
    return _open_http(url, timeout_s) if is_http(url) else _open_other(url, timeout_s)


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
            raise FinalError(told) from None
        raise OSError(told) from None
    except urllib.error.URLError as error:
        raise error.reason if isinstance(error.reason, OSError) else error from None
    except (InvalidURL, UnicodeEncodeError):
        raise FinalError("the URL has blanks or other characters that must be quoted") from None
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
        raise FinalError(
            f"{error.filename or error} is not there: install it, or mend PATH"
        ) from None
    except (ValueError, ImportError) as error:
        raise FinalError(str(error)) from None
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
