"""The stamps of Tux Paint: unpacks the Debian package and finds the items in it.

An item is a drawing or photo (``rooster.png``), captions in many languages (``rooster.txt``), human
speech that reads them (``rooster_desc_fr.ogg``) and perhaps a sound (``rooster.ogg``).
"""

from __future__ import annotations

import re
import subprocess
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mmfm_prep.errors import PrepError
from mmfm_prep.registries.fetch import Package
from mmfm_prep.sample import Texts

PACKAGE = Package(
    "tuxpaint-stamps-default",
    "2022.06.04-1",
    "tuxpaint-stamps-default_2022.06.04-1_all.deb",
    "sha256-6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
)
ROOT = "./usr/share/tuxpaint/stamps/"

_CLIP = re.compile(r"(?P<stem>.+?)(?P<speech>_desc(_(?P<language>[A-Za-z_@]+))?)?\.(ogg|wav)")
_LOCAL_SOUND = re.compile(r"(?P<stem>.+)_[a-z]{2,3}(_[A-Z]{2})?\.(ogg|wav)")
_CAPTION = re.compile(r"(?P<language>[A-Za-z_@]+)\.utf8=(?P<text>.*)")
_CODES = {"zh": "zh_CN"}
"""Language codes of mmfm's sets that the package writes otherwise."""


@dataclass
class Item:
    """One stamp. Values are paths in the package; `clips`: language (or "" for a sound) ▶ path."""

    stem: str
    picture: str | None = None
    captions: str | None = None
    clips: dict[str, str] = field(default_factory=dict)

    @property
    def category(self) -> str:
        """The folder at the top: animals, food, vehicles …"""
        return self.stem.split("/")[0]


def unpack(package: Path) -> dict[str, bytes]:
    """The files below the stamps' folder, by their path there."""
    files = {}
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    if member.isfile() and member.name.startswith(ROOT):
                        file = archive.extractfile(member)
                        assert file is not None
                        files[member.name.removeprefix(ROOT)] = file.read()
        except tarfile.TarError as error:
            reason = process.stderr.read().decode(errors="replace").strip() or str(error)
            raise PrepError(
                f"{package} can't be unpacked ({reason}): delete it, run again"
            ) from None
    return files


def find_items(paths: Sequence[str]) -> tuple[list[Item], Counter[str]]:
    """The items among `paths`, sorted by name, and how many clips were left out for which reason.

    An item has a caption. A sound that comes in several languages (``7.ogg``, ``7_de.ogg``) is a
    word and no sound, in a language that isn't said: it is left out.
    """
    captioned = {path.removesuffix(".txt") for path in paths if path.endswith(".txt")}
    local = [
        (path, match["stem"])
        for path in paths
        if (match := _LOCAL_SOUND.fullmatch(path)) and match["stem"] in captioned
    ]
    words = {path for path, _ in local}
    words |= {f"{stem}.ogg" for _, stem in local if f"{stem}.ogg" in paths}
    left_out = Counter({"clip: a word among the sounds": len(words)})
    items = _gather([path for path in paths if path not in words])
    for item in items:
        if item.stem not in captioned:
            left_out["clip: no caption"] += len(item.clips)
            left_out["picture: no caption"] += item.picture is not None
    return [item for item in items if item.stem in captioned], left_out


def _gather(paths: Sequence[str]) -> list[Item]:
    items: dict[str, Item] = {}

    def item(stem: str) -> Item:
        return items.setdefault(stem, Item(stem))

    for path in sorted(paths):
        ending = PurePosixPath(path).suffix
        stem = path.removesuffix(ending)
        if ending == ".png" or (ending == ".svg" and item(stem).picture is None):
            item(stem).picture = path
        elif ending == ".txt":
            item(stem).captions = path
        elif ending in (".ogg", ".wav"):
            match = _CLIP.fullmatch(path)
            assert match is not None
            # Speech that names no language is English.
            language = (match["language"] or "en") if match["speech"] else ""
            item(match["stem"]).clips.setdefault(language, path)
    return sorted(items.values(), key=lambda i: i.stem)


def read_captions(data: bytes, languages: Sequence[str]) -> Texts:
    """Language ▶ [caption] of a .txt file: English in the first line, then ``fr.utf8=…``."""
    lines = data.decode("utf-8-sig", errors="replace").splitlines()
    found: dict[str, str] = {"en": lines[0].strip()} if lines else {}
    for line in lines[1:]:
        match = _CAPTION.fullmatch(line.strip())
        # Some captions were saved in a legacy encoding: not readable, not used.
        if match and match["text"].strip() and "�" not in match["text"]:
            found.setdefault(match["language"], match["text"].strip())
    return _in_order(found, languages)


def _in_order(found: Mapping[str, str], languages: Sequence[str]) -> Texts:
    codes = {language: _CODES.get(language, language) for language in languages}
    return {lang: [found[code]] for lang, code in codes.items() if found.get(code)}
