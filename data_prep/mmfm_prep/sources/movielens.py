"""MovieLens 100K: 1,682 films and what 943 people watched, in order.

    mmfm data make movielens data/movielens

Split `items` holds one sample a film, with title, year and genres as its text; split `users` one
sample a person, whose `history` are the ids of the films, ordered by time and, where times are
equal, as the file has them (`times`: seconds since 1970). Nothing is filtered. The files are those
in the wheel of RecBole on PyPI, pinned, kept in `cache`; nothing of the wheel is installed or run.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from mmfm_prep.errors import PrepError
from mmfm_prep.fetch import Package, pip
from mmfm_prep.sample import Sample
from mmfm_prep.sources.base import Source

PACKAGE = Package(
    "recbole",
    "1.2.1",
    "recbole-1.2.1-py3-none-any.whl",
    "sha256-9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
)
FOLDER = "recbole/dataset_example/ml-100k"
LICENCE = "GroupLens terms of MovieLens 100K: research, cited; else only with their permission"

_ARTICLES = "The|A|An|Le|La|Les|L'|Un|Une|Il|Lo|El|Los|Las|Der|Die|Das|De|Det|O|Os"
_INVERTED = re.compile(rf"([^()]+), ({_ARTICLES})(?=$|[ )])")


class Event(NamedTuple):
    """One rating: who, when (seconds since 1970), in which row of the file, which film."""

    user: int
    time: int
    row: int
    item: int


@dataclass(kw_only=True)
class Config(Source):
    """Options of MovieLens 100K."""

    licence: ClassVar[str] = LICENCE
    not_recorded: ClassVar[tuple[str, ...]] = ("cache",)

    cache: Path = Path("cache")
    """Where the fetched package stays."""

    def samples(self) -> Iterator[Sample]:
        with zipfile.ZipFile(pip(PACKAGE, self.cache)) as wheel:
            films = read_table(_text(wheel, "ml-100k.item"))
            events = read_events(_text(wheel, "ml-100k.inter"))
        known = {int(film["item_id"]) for film in films}
        lost = {event.item for event in events} - known
        if lost:
            raise PrepError(f"{PACKAGE.file}: films without a title: {sorted(lost)[:5]}")
        self.notes |= {"films": len(films), "events": len(events)}
        yield from (_film(film) for film in films)
        histories: dict[int, list[Event]] = {}
        for event in sorted(events):
            histories.setdefault(event.user, []).append(event)
        yield from (_person(user, history) for user, history in histories.items())


def read_table(text: str) -> list[dict[str, str]]:
    """The rows of a RecBole atomic file: tab-separated, its header names ``field:type``."""
    lines = text.splitlines()
    names = [column.split(":")[0] for column in lines[0].split("\t")]
    return [dict(zip(names, line.split("\t"), strict=True)) for line in lines[1:] if line]


def read_events(text: str) -> list[Event]:
    """The interactions, with exact integer times (as 32-bit floats some would change places)."""
    return [
        Event(int(row["user_id"]), int(row["timestamp"]), number, int(row["item_id"]))
        for number, row in enumerate(read_table(text))
    ]


def natural_title(title: str) -> str:
    """A title as it is said: "Postino, Il (Postman, The)" ▶ "Il Postino (The Postman)"."""

    def turn(match: re.Match[str]) -> str:
        words, article = match.groups()
        return f"{article}{'' if article.endswith(chr(39)) else ' '}{words}"

    return _INVERTED.sub(turn, title)


def describe(film: dict[str, str]) -> str:
    """The text of a film: ``Toy Story (1995). Animation, Children's, Comedy``."""
    year = f" ({film['release_year']})" if film["release_year"] else ""
    genres = ", ".join(film["class"].split())
    return f"{natural_title(film['movie_title'])}{year}. {genres}"


def _film(film: dict[str, str]) -> Sample:
    return Sample(
        key=f"{int(film['item_id']):06d}",
        id=f"item/{film['item_id']}",
        group=f"item/{film['item_id']}",
        split="items",
        texts={"en": [describe(film)]},
        source="MovieLens 100K",
        licence=LICENCE,
        meta={"title": natural_title(film["movie_title"]), "genres": film["class"].split()},
    )


def _person(user: int, history: list[Event]) -> Sample:
    return Sample(
        key=f"{user:06d}",
        id=f"user/{user}",
        group=f"user/{user}",
        split="users",
        history=[f"item/{event.item}" for event in history],
        source="MovieLens 100K",
        licence=LICENCE,
        meta={"times": [event.time for event in history]},
    )


def _text(wheel: zipfile.ZipFile, name: str) -> str:
    try:
        return wheel.read(f"{FOLDER}/{name}").decode("utf-8")
    except KeyError:
        raise PrepError(f"{PACKAGE.file} holds no {FOLDER}/{name}") from None
