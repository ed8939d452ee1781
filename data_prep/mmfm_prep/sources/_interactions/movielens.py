"""A folder of MovieLens as GroupLens gives it out: 100K, 1M, 10M or, as CSV, 20M to 32M, latest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mmfm_prep.errors import PrepError
from mmfm_prep.making.draft import LeftOut
from mmfm_prep.sources._interactions.events import EventColumns, Rows
from mmfm_prep.sources._interactions.lines import read_lines, split_lines, utf8_or_latin1
from mmfm_prep.sources._interactions.tables import ItemColumns, ItemTable, Tables
from mmfm_prep.tables import Row, read_rows

_EVENTS = EventColumns("userId", "movieId", "timestamp", "rating")
_ITEMS = ItemColumns(id="movieId", texts={"en": ["text"]}, meta=["title", "genres"])
_100K_GENRES = [
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
]
_100K = ["movieId", "title", "released", "on video", "address", *_100K_GENRES]
_FILES = {"u.data": "u.item", "ratings.dat": "movies.dat", "ratings.csv": "movies.csv"}

_ARTICLES = "The|A|An|Le|La|Les|L'|Un|Une|Il|Lo|El|Los|Las|Der|Die|Das|De|Det|O|Os"
_INVERTED = re.compile(rf"([^()]+), ({_ARTICLES})(?=$|[ )])")


def tables(folder: Path) -> Tables:
    """The events and films in `folder`; PrepError where it is no folder of MovieLens."""
    found = [name for name in _FILES if (folder / name).is_file()]
    if not found:
        raise PrepError(f"{folder} is no folder of MovieLens: it holds no {', '.join(_FILES)}")
    events, films = folder / found[0], folder / _FILES[found[0]]
    if not films.is_file():
        raise PrepError(f"there is no {films}, which says what the films of {events.name} are")
    items = ItemTable(rows=lambda: _films(films), columns=_ITEMS, root=folder)
    return Tables(events=lambda: _events(events), columns=_EVENTS, files=[events], items=items)


def natural_title(title: str) -> str:
    """A title as it is said: "Postino, Il (Postman, The)" ▶ "Il Postino (The Postman)"."""

    def turn(match: re.Match[str]) -> str:
        words, article = match.groups()
        return f"{article}{'' if article.endswith(chr(39)) else ' '}{words}"

    return _INVERTED.sub(turn, title)


def describe(title: str, genres: list[str]) -> str:
    """The text of a film: ``Toy Story (1995). Animation, Children's, Comedy``."""
    return f"{natural_title(title)}. {', '.join(genres)}" if genres else natural_title(title)


def _events(path: Path) -> Rows:
    if path.suffix == ".csv":
        return read_rows(path, _EVENTS.names())
    names = ["userId", "movieId", "rating", "timestamp"]
    return split_lines(read_lines(path), names, _separator(path), path.name)


def _films(path: Path) -> Iterator[tuple[str, Row] | LeftOut]:
    genres: Callable[[Row], list[str]] = _genres_in_one
    rows: Rows
    if path.suffix == ".csv":
        rows = read_rows(path, ["movieId", "title", "genres"])
    else:
        lines = read_lines(path, utf8_or_latin1(path))
        names = ["movieId", "title", "genres"]
        if path.name == "u.item":
            names, genres = _100K, _genres_by_flag
        rows = split_lines(lines, names, _separator(path), path.name)
    for entry in rows:
        if isinstance(entry, LeftOut):
            yield entry
            continue
        place, row = entry
        found, title = genres(row), row["title"].strip()
        about = {"title": natural_title(title), "genres": found, "text": describe(title, found)}
        yield place, {"movieId": row["movieId"], **about}


def _separator(path: Path) -> str:
    return {"u.data": "\t", "u.item": "|"}.get(path.name, "::")


def _genres_in_one(row: Row) -> list[str]:
    genres: str = row["genres"].strip()
    return [] if genres in ("", "(no genres listed)") else genres.split("|")


def _genres_by_flag(row: Row) -> list[str]:
    return [genre for genre in _100K_GENRES if row[genre].strip() == "1"]
