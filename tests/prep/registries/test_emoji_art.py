"""Which concepts are taken from the emoji packages, on small made-up ones."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from mmfm_prep.errors import PrepError
from mmfm_prep.registries.emoji_art import Concept, find_concepts, names, read_members, slug
from mmfm_prep.sources.emoji import choose_concepts


def tgz(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def entry(code: str, name: str, **more: Any) -> dict[str, Any]:
    fields = {"category": "Animals & Nature", "subcategory": "animal-mammal", "sort_order": 1}
    image = {"image": f"{code.lower()}.png", "short_names": [name.lower()]}
    return {"unified": code, "name": name, **fields, **image, **more}


CAT = entry("1F408", "CAT", sort_order=2)
CALLED = {
    "en": {"🐈": ["cat", "pet"], "❤": ["red heart"], "👋": ["waving hand"], "🐕": ["dog"]},
    "de": {"🐈": ["Katze"]},
}


def test_concepts_and_the_reasons_of_the_others() -> None:
    heart = entry("2764-FE0F", "HEAVY BLACK HEART", sort_order=1)
    others = [
        entry("1F1E6-1F1E8", "FLAG", category="Flags"),
        entry("1F468-200D-1F469", "FAMILY"),
        entry("1F44B", "WAVING HAND SIGN", skin_variations={"1F3FB": {}}),
        entry("1F51F", "KEYCAP TEN"),
        entry("1F415", "DOG"),
    ]
    present = {
        "noto": ["package/img/google/64/1f408.png", "package/img/google/64/2764-fe0f.png"],
        "openmoji-color": ["package/color/svg/1F408.svg", "package/color/svg/2764.svg"],
        "fluent-flat": ["package/icons/flat/cat.svg", "package/icons/flat/red-heart.svg"],
    }
    concepts, left_out = find_concepts([CAT, heart, *others], CALLED, present)
    assert [(c.code, c.name) for c in concepts] == [("2764", "red heart"), ("1F408", "cat")]
    assert concepts[1].texts == {"en": ["cat", "pet"], "de": ["Katze"]}
    assert concepts[0].paths == {
        "noto": "package/img/google/64/2764-fe0f.png",
        "openmoji-color": "package/color/svg/2764.svg",
        "fluent-flat": "package/icons/flat/red-heart.svg",
    }
    assert left_out == {
        "flags and components": 1,
        "joined sequences": 1,
        "skin tones": 1,
        "no English name": 1,
        "not drawn in noto": 1,
    }


@pytest.mark.parametrize(
    ("name", "file"),
    [("E-mail", "e-mail"), ("piñata", "pinata"), ("dog’s head", "dogs-head"), ("A & B", "a-b")],
)
def test_slug(name: str, file: str) -> None:
    assert slug(name) == file


def test_names_come_first_and_once(tmp_path: Path) -> None:
    annotations = {"🐈": {"default": ["pet", "cat"], "tts": ["cat"]}, "x": {"default": ["a"]}}
    content = json.dumps({"annotations": {"annotations": annotations}}).encode()
    package = tgz(tmp_path / "p.tgz", {"package/annotations/en/annotations.json": content})
    assert names(package, ["en"]) == {"en": {"🐈": ["cat", "pet"]}}
    with pytest.raises(PrepError, match="no names in the language xx"):
        names(package, ["en", "xx"])


def test_a_broken_package_is_a_clear_error(tmp_path: Path) -> None:
    whole = tgz(tmp_path / "p.tgz", {"a": bytes(range(256)) * 99}).read_bytes()
    for data in (b"", b"nothing", whole[:40]):
        (tmp_path / "q.tgz").write_bytes(data)
        with pytest.raises(PrepError, match="delete it, and it is fetched again"):
            read_members(tmp_path / "q.tgz", lambda name: True)


def test_some_of_the_concepts_by_lot() -> None:
    concepts = [Concept(str(i), f"name {i}", "", "", {}, {}) for i in range(50)]
    spoken = [concepts[i] for i in (7, 31, 40)]
    chosen = choose_concepts(concepts, 10, spoken, seed=0)
    assert len(chosen) == 10
    assert set(map(id, spoken)) <= set(map(id, chosen))
    assert chosen == sorted(chosen, key=lambda c: int(c.code))
    assert choose_concepts(concepts, 10, spoken, seed=0) == chosen
    assert choose_concepts(concepts, 10, spoken, seed=1) != chosen
    assert choose_concepts(concepts, 99, spoken, seed=0) == concepts
