"""Fetching from a server that stalls, cuts, lies and fails, and through webdataset's openers."""

from __future__ import annotations

import base64
import hashlib
import io
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from webdataset.gopen import gopen_schemes

from mmfm.data.remote import fetch as fetching
from mmfm.data.remote import openers
from mmfm.data.remote.fetch import FetchError, RemoteConfig, StoppedError, Traffic, fetch
from mmfm.data.remote.urls import hide, is_url, join, local_path, shard_names
from tests.data.remote.shard_server import ShardServer, serve

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATIENT = RemoteConfig(retries=2)
QUICK = RemoteConfig(retries=2, timeout_s=1.0)
"""For servers that stall; a busy machine answers within it."""


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "FIRST_PAUSE_S", 0.001)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ShardServer]:
    (tmp_path / "a.tar").write_bytes(CONTENT)
    with serve(tmp_path) as found:
        yield found


def fetched(url: str, remote: RemoteConfig = PATIENT, **known: object) -> bytes:
    file = io.BytesIO(b"what was here before" * 1000)
    fetch(url, file, remote, **known)
    return file.getvalue()


KNOWN = {"size": len(CONTENT), "sha256": SHA256}


@pytest.mark.parametrize("known", [KNOWN, {}])
@pytest.mark.parametrize("fault", ["", "truncate", "stall", "500", "503", "429", "trickle"])
def test_failures_that_pass_are_tried_again(
    server: ShardServer, fault: str, known: dict[str, object]
) -> None:
    server.faults["/a.tar"] = [fault, fault] if fault else []
    traffic = Traffic()
    remote = QUICK if fault in ("stall", "trickle") else PATIENT
    assert fetched(f"{server.url}/a.tar", remote, traffic=traffic, **known) == CONTENT
    assert traffic.retries == (2 if fault else 0)
    assert server.requests["/a.tar"] == traffic.retries + 1
    assert traffic.bytes >= len(CONTENT)


@pytest.mark.parametrize("fault", ["wrong", "other size", "untold"])
def test_other_content_than_the_known_is_refused(server: ShardServer, fault: str) -> None:
    server.faults["/a.tar"] = [fault]
    assert fetched(f"{server.url}/a.tar", **KNOWN) == CONTENT
    assert server.requests["/a.tar"] == 2


def test_wrong_bytes_twice_are_the_servers_fault(server: ShardServer) -> None:
    server.faults["/a.tar"] = ["wrong"] * 9
    with pytest.raises(FetchError, match=rf"2 tries: its sha256 is \w+, not {SHA256}"):
        fetched(f"{server.url}/a.tar", RemoteConfig(retries=8), **KNOWN)


@pytest.mark.parametrize("code", ["404", "403", "410"])
def test_what_is_not_there_is_not_tried_again(server: ShardServer, code: str) -> None:
    server.faults["/a.tar"] = [code]
    with pytest.raises(FetchError, match=rf"/a\.tar can't be fetched, 1 try: HTTP {code}"):
        fetched(f"{server.url}/a.tar")
    assert server.requests["/a.tar"] == 1


def test_the_last_reason_is_told_without_secrets(server: ShardServer) -> None:
    server.faults["/a.tar"] = ["500", "truncate", "stall"]
    host = server.url.removeprefix("http://")
    with pytest.raises(FetchError) as caught:
        fetched(f"http://user:secret@{host}/a.tar?token=hidden", QUICK)
    assert str(caught.value) == (
        f"{server.url}/a.tar can't be fetched, 3 tries: no answer, or nothing more, for timeout_s"
    )
    sent = server.headers["/a.tar"]["Authorization"].removeprefix("Basic ")
    assert base64.b64decode(sent) == b"user:secret"


def test_no_server(server: ShardServer) -> None:
    with pytest.raises(FetchError, match=r"3 tries: \[Errno 111\] Connection refused"):
        fetched("http://127.0.0.1:1/a.tar")


def test_redirects_are_followed_without_the_password(server: ShardServer) -> None:
    host = server.url.removeprefix("http://")
    assert fetched(f"http://user:secret@{host}/moved/a.tar", **KNOWN) == CONTENT
    assert "Authorization" in server.headers["/moved/a.tar"]
    assert "Authorization" not in server.headers["/a.tar"]


@pytest.mark.parametrize("fault", ["", "untold"])
def test_an_answer_has_an_end(server: ShardServer, fault: str) -> None:
    server.faults["/a.tar"] = [fault]
    with pytest.raises(FetchError, match=r"1 try: it has .* the 4000"):
        fetched(f"{server.url}/a.tar", most=4000)
    assert server.requests["/a.tar"] == 1


def test_a_url_must_be_quoted(server: ShardServer) -> None:
    with pytest.raises(FetchError, match="must be quoted"):
        fetched(f"{server.url}/é.tar?sig=secret")


def test_a_fetch_can_be_called_off(server: ShardServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "FIRST_PAUSE_S", 20.0)
    server.faults["/a.tar"] = ["500"] * 3
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    began = time.monotonic()
    with pytest.raises(StoppedError):
        fetched(f"{server.url}/a.tar", stop=stop)
    assert time.monotonic() - began < 5


def test_the_random_state_of_the_run_is_left_alone(server: ShardServer) -> None:
    state = random.getstate()
    server.faults["/a.tar"] = ["500"]
    fetched(f"{server.url}/a.tar")
    assert random.getstate() == state


def test_webdatasets_openers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def opener(url: str, mode: str, bufsize: int) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(CONTENT[: 100 if len(asked) == 1 else None])

    monkeypatch.setitem(gopen_schemes, "s3", opener)
    assert fetched("s3://bucket/a.tar", **KNOWN) == CONTENT
    assert asked == ["s3://bucket/a.tar"] * 2
    with pytest.raises(FetchError, match="1 try: odd://b/a: no gopen handler"):
        fetched("odd://b/a")


def test_commands_for_schemes_that_gopen_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(openers.COMMANDS, "hdfs", ("printf", "%s", "{url}"))
    assert fetched("hdfs://node/a.tar") == b"hdfs://node/a.tar"
    monkeypatch.setitem(openers.COMMANDS, "hdfs", ("not-installed", "{url}"))
    with pytest.raises(FetchError, match="1 try: not-installed is not there: install it"):
        fetched("hdfs://node/a.tar")


def test_pipes(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    file.write_bytes(CONTENT)
    assert fetched(f"pipe:cat {file}", **KNOWN) == CONTENT
    with pytest.raises(FetchError) as caught:
        fetched(f"pipe:TOKEN=hidden cat {file}; exit 3")
    assert str(caught.value) == (
        "pipe:… a.tar can't be fetched, 3 tries: its command ended with status 3"
    )
    once = RemoteConfig(retries=0, timeout_s=0.1)
    for silent in ("sleep 30", f"cat {file}; exec >&-; sleep 30"):
        began = time.monotonic()
        with pytest.raises(FetchError, match=r"no answer, or nothing more|does not end"):
            fetched(f"pipe:{silent}", once)
        assert time.monotonic() - began < 10


def test_urls() -> None:
    assert [is_url(p) for p in ("s3://b/x", "hf://d/u/r", "pipe:cat x", "HTTP://h/x")] == [True] * 4
    assert [is_url(p) for p in ("data/x", "file:///data", "a:b.tar", "/x://y")] == [False] * 4
    assert local_path("file:///data/a%20b") == "/data/a b"
    assert hide("https://me:pw@h:8/d/a.tar?sig=1#f") == "https://h:8/d/a.tar"
    assert join("https://h/d/?sig=1", "x/a b?.tar") == "https://h/d/x/a%20b%3F.tar?sig=1"
    assert join("s3://b/d/", "x/a.tar") == "s3://b/d/x/a.tar"


def test_names_are_those_that_local_tars_have() -> None:
    assert shard_names(["https://h/d/x/0.tar?s=1", "https://h/d/y/a%20b.tar"]) == [
        "x/0.tar",
        "y/a b.tar",
    ]
    assert shard_names(["s3://b/0.tar"]) == ["0.tar"]
    assert shard_names(["pipe:cat /d/0.tar | cat", "pipe:cat /d/1.tar | cat"]) == ["0.tar", "1.tar"]
    assert shard_names(["pipe:make-one", "pipe:make-two"]) == ["000000.tar", "000001.tar"]
    with pytest.raises(ValueError, match=r"two of the URLs mean a shard '0\.tar'"):
        shard_names(["https://h/0.tar?part=1", "https://h/0.tar?part=2"])
