"""The emoji packages of npm: which concepts they draw, in which styles, and what these are called.

A concept is one code point (flags, joined sequences and concepts that come in skin tones are left
out) that has a name in Unicode's CLDR and a drawing in every style that is asked for.
"""

from __future__ import annotations

import json
import re
import tarfile
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfm_prep.errors import PrepError
from mmfm_prep.registries.fetch import Package
from mmfm_prep.sample import Texts

PACKAGES = {
    p.name: p
    for p in (
        Package(
            "emoji-datasource-google",
            "16.0.0",
            "emoji-datasource-google-16.0.0.tgz",
            "sha512-ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCo"
            "T8DlPhfQ3A==",
        ),
        Package(
            "emoji-datasource-twitter",
            "16.0.0",
            "emoji-datasource-twitter-16.0.0.tgz",
            "sha512-7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8j"
            "BbuL2eyELQ==",
        ),
        Package(
            "openmoji",
            "17.0.0",
            "openmoji-17.0.0.tgz",
            "sha512-EBnYrNGdcdw+OSXmENeNE1yBNRu6tOraTmoOyUbJkTmvT/+XETp8RZLSJFzD3lrPc5N9CzsyPnRT"
            "k0Vp4UaI9w==",
        ),
        Package(
            "fluentui-emoji",
            "1.3.0",
            "fluentui-emoji-1.3.0.tgz",
            "sha512-JTXXwqIie2rWTgOkIJDJxr0WtwTz2WU4kdOq8buLVThYwQ264aFR2jdTyuon2oEbLqqGMT64zI4b"
            "tyn1saB2xw==",
        ),
        Package(
            "cldr-annotations-full",
            "48.2.0",
            "cldr-annotations-full-48.2.0.tgz",
            "sha512-DV7A+rEcgUSNTRsVGNGqBZRmAkGfwhGHO5Q1dRwzBoBnVrHWp804JP7/QJdEc66iHmx3+zLWVIMC"
            "FLm0lW7PUQ==",
        ),
    )
}
DATA_PACKAGE = "emoji-datasource-google"
NAMES_PACKAGE = "cldr-annotations-full"

Entry = Mapping[str, Any]
"""One entry of emoji-datasource's emoji.json."""


@dataclass(frozen=True)
class Style:
    """A way to draw: the package, its licence, and where a concept's picture may be in it."""

    package: str
    licence: str
    paths: Callable[[Entry, Sequence[str]], Iterable[str]]
    """(entry of emoji.json, English names of the concept) ▶ paths in the package, best first."""


def _raster(folder: str) -> Callable[[Entry, Sequence[str]], Iterable[str]]:
    return lambda entry, names: [f"package/img/{folder}/64/{entry['image']}"]


def _openmoji(folder: str) -> Callable[[Entry, Sequence[str]], Iterable[str]]:
    return lambda entry, names: [
        f"package/{folder}/svg/{code}.svg"
        for code in (entry["unified"], entry["unified"].removesuffix("-FE0F"))
    ]


def _fluent(folder: str) -> Callable[[Entry, Sequence[str]], Iterable[str]]:
    return lambda entry, names: [
        f"package/icons/{folder}/{FLUENT_NAMES.get(slug(name), slug(name))}.svg" for name in names
    ]


STYLES = {
    "noto": Style("emoji-datasource-google", "Apache-2.0", _raster("google")),
    "twemoji": Style("emoji-datasource-twitter", "CC-BY-4.0", _raster("twitter")),
    "openmoji-color": Style("openmoji", "CC-BY-SA-4.0", _openmoji("color")),
    "openmoji-black": Style("openmoji", "CC-BY-SA-4.0", _openmoji("black")),
    "fluent-color": Style("fluentui-emoji", "MIT", _fluent("modern")),
    "fluent-flat": Style("fluentui-emoji", "MIT", _fluent("flat")),
    "fluent-high-contrast": Style("fluentui-emoji", "MIT", _fluent("high-contrast")),
}

# CLDR's name ▶ the file in the Fluent package, where the two differ
FLUENT_NAMES = {
    "face-with-crossed-out-eyes": "knocked-out-face",
    "genie": "person-genie",
    "people-wrestling": "person-wrestling",
    "red-triangle-pointed-up": "red-triangle",
    "zombie": "person-zombie",
}


@dataclass(frozen=True)
class Concept:
    """What one code point stands for. `paths`: style ▶ the picture's path in its package."""

    code: str
    name: str
    category: str
    subcategory: str
    texts: Texts
    paths: Mapping[str, str]


def slug(name: str) -> str:
    """`name` as the Fluent package writes it in file names: ``"E-mail"`` ▶ ``e-mail``."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain.replace("'", "")).strip("-")


def read_members(package: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The files of a .tgz whose path is `wanted`, in memory; PrepError where it can't be read."""
    out = {}
    try:
        with tarfile.open(package, "r|gz") as archive:
            for member in archive:
                if member.isfile() and wanted(member.name):
                    file = archive.extractfile(member)
                    assert file is not None
                    out[member.name] = file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise PrepError(
            f"{package} can't be read ({error}): delete it, and it is fetched again"
        ) from None
    return out


def names(package: Path, languages: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Language ▶ character ▶ its name in CLDR, then its keywords."""
    paths = {f"package/annotations/{language}/annotations.json": language for language in languages}
    files = read_members(package, paths.__contains__)
    missing = [language for path, language in paths.items() if path not in files]
    if missing:
        raise PrepError(f"CLDR has no names in the language {', '.join(missing)}")
    out: dict[str, dict[str, list[str]]] = {}
    for path, language in paths.items():
        annotations = json.loads(files[path])["annotations"]["annotations"]
        out[language] = {
            # A dict keeps the order and drops the name among the keywords.
            character: list(dict.fromkeys([*entry["tts"], *entry.get("default", ())]))
            for character, entry in annotations.items()
            if entry.get("tts")
        }
    return out


def find_concepts(
    entries: Iterable[Entry],
    called: Mapping[str, Mapping[str, list[str]]],
    present: Mapping[str, Iterable[str]],
) -> tuple[list[Concept], dict[str, int]]:
    """The concepts in Unicode's order, and how many were left out for which reason.

    `called`: language ▶ character ▶ texts, English first. `present`: style ▶ paths in its package.
    """
    there = {style: set(paths) for style, paths in present.items()}
    left_out = {"flags and components": 0, "joined sequences": 0, "skin tones": 0}
    left_out |= {"no English name": 0} | {f"not drawn in {style}": 0 for style in there}
    concepts = []
    for entry in sorted(entries, key=lambda e: int(e["sort_order"])):
        code = entry["unified"].removesuffix("-FE0F")
        if entry["category"] in ("Flags", "Component"):
            left_out["flags and components"] += 1
        elif "-" in code:
            left_out["joined sequences"] += 1
        elif "skin_variations" in entry:
            left_out["skin tones"] += 1
        elif chr(int(code, 16)) not in called["en"]:
            left_out["no English name"] += 1
        else:
            character = chr(int(code, 16))
            texts = {lang: t[character] for lang, t in called.items() if character in t}
            english = [texts["en"][0], entry["name"], *entry["short_names"]]
            found = {
                style: next((p for p in STYLES[style].paths(entry, english) if p in paths), None)
                for style, paths in there.items()
            }
            lacking = [style for style, path in found.items() if path is None]
            if lacking:
                left_out[f"not drawn in {lacking[0]}"] += 1
                continue
            concepts.append(
                Concept(
                    code,
                    texts["en"][0],
                    entry["category"],
                    entry["subcategory"],
                    texts,
                    {style: path for style, path in found.items() if path is not None},
                )
            )
    return concepts, {reason: n for reason, n in left_out.items() if n}
