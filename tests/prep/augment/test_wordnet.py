"""WordNet: what its files say, and which synonyms are offered."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from mmfm_prep.augment import wordnet
from mmfm_prep.errors import PrepError

# Lines of the real files, shortened behind the words.
FILES = {
    "index.sense": """car%1:06:00:: 02961779 1 71
car%1:06:01:: 02963378 2 2
auto%1:06:00:: 02961779 1 0
automobile%1:06:00:: 02961779 1 0
family_car%1:06:00:: 02961779 1 0
red%1:07:00:: 04969961 1 3
red%5:00:00:chromatic:00 00382159 1 41
run%2:38:00:: 01930264 1 106
bus%1:06:00:: 02927500 1 8
city%1:15:00:: 08542298 1 87
male%1:18:00:: 10305010 1 10
""",
    "data.noun": """  1 This software and database is being provided to you, the LICENSEE, by
02961779 06 n 06 car 0 auto 0 automobile 0 motor_car 0 T-car 0 4wd 0 001 @ 03796768 n 0000 | a
04969961 07 n 02 red 0 redness 0 001 @ 04966640 n 0000 | red color
02927500 06 n 02 bus 0 coach 0 000 | a vehicle
08542298 15 n 03 city 0 metropolis 0 urban_center 0 000 | a large area
10305010 18 n 02 male 0 male_child 0 000 | a boy
""",
    "data.verb": "01930264 38 v 01 run 0 001 @ 01838942 v 0000 01 + 02 00 | move fast\n",
    "data.adj": "00382159 00 s 03 red 0 ruddy(p) 0 blood-red 0 001 & 00381467 a 0000 | of\n",
    "data.adv": "",
}


def make_package(path: Path, **changed: str) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in {**FILES, **changed}.items():
            member = tarfile.TarInfo(f"package/dict/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = make_package(tmp_path / "wordnet.tgz")
    monkeypatch.setattr(wordnet, "npm", lambda package, cache: path)
    return tmp_path


@pytest.mark.parametrize(
    ("word", "synonyms"),
    [
        ("car", ("auto", "automobile", "motor car")),  # no name, nothing with digits
        ("automobile", ("car", "auto", "motor car")),
        ("cars", ("automobiles", "motor cars")),  # who knows the plural of what ends with o?
        ("buses", ()),
        ("cities", ("urban centers",)),  # not of what ends with s
        (
            "red",
            ("blood-red",),
        ),  # the adjective is tagged oftener; "ruddy" never stands before a noun
        ("run", ()),
        ("runs", ()),  # no noun
        ("ran", ()),
        ("males", ()),  # children
        ("family car", ()),
        ("", ()),
        ("s", ()),
    ],
)
def test_synonyms(package: Path, word: str, synonyms: tuple[str, ...]) -> None:
    assert wordnet.load(package).synonyms(word) == synonyms


@pytest.mark.parametrize(
    ("noun", "many"),
    [
        ("dog", "dogs"), ("urban center", "urban centers"), ("city", "cities"), ("boy", "boys"),
        ("church", "churches"), ("bush", "bushes"), ("box", "boxes"), ("glass", "glasses"),
        ("photo", "photos"), ("zoo", "zoos"), ("radio", "radios"), ("wagon", "wagons"),
        ("fireman", None), ("male child", None), ("wolf", None), ("knife", None), ("cactus", None),
        ("thesis", None), ("potato", None), ("goldfish", None), ("mouse", None), ("bus", None),
    ],
)  # fmt: skip
def test_plurals_only_where_they_are_regular(noun: str, many: str | None) -> None:
    assert wordnet.plural(noun) == many


def test_it_is_read_once(package: Path) -> None:
    assert wordnet.load(package) is wordnet.load(package)


@pytest.mark.parametrize("changed", [{"data.noun": "0296x n\n"}, {"index.sense": "car\n"}])
def test_another_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str]
) -> None:
    path = make_package(tmp_path / "wordnet.tgz", **changed)
    monkeypatch.setattr(wordnet, "npm", lambda package, cache: path)
    with pytest.raises(PrepError, match=r"wordnet.tgz is not WordNet's database"):
        wordnet.load(tmp_path)
    tarfile.open(path, "w").close()
    with pytest.raises(PrepError, match=r"wordnet.tgz is not WordNet's database"):
        wordnet.load(tmp_path)
