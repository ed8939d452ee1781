"""Texts and metadata in other encodings and of other types."""

from __future__ import annotations

import random
from pathlib import Path

from tests.data.mutations.base import Members, OnMembers, content_of, meta_of, replace, some


def not_utf8(members: Members, draw: random.Random, trap: Path) -> None:
    at = some(members, draw, ".json")
    key = members[at][0].name[:-5]
    latin = "Grüße aus Köln".encode("latin-1")
    which = draw.randrange(3)
    if which == 0:
        replace(members, at, b'{"texts": ["' + latin + b'"]}')
    elif which == 1:
        replace(members, at, latin, f"{key}.txt")
    else:
        replace(members, at, '{"texts": ["a"]}'.encode("utf-16"))


def bad_json() -> OnMembers:
    return content_of(
        ".json",
        b'[{"texts": ["a"]}]',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
        b"null",
        b'{"texts": ["a"]',
        b'{"texts": ["a"]} {"texts": ["a"]}',
        b'{"id": NaN, "texts": ["a"]}',
        b'\xef\xbb\xbf{"texts": ["a"]}',
        b'{"texts": ["\\ud800"]}',
        b'{"texts": ["a\\u0000b"]}',
    )


KINDS: dict[str, OnMembers] = {
    "text not in UTF-8": not_utf8,
    "JSON that is none": bad_json(),
    "JSON of other types": meta_of(
        {"texts": None},
        {"texts": 5},
        {"texts": [1, None]},
        {"texts": {"en": {"de": ["a"]}}},
        {"texts": []},
        {"texts": ["x" * 100_000]},
        {"id": {"a": 1}},
        {"id": ""},
        {"id": "../../../etc/passwd"},
        {"group": [1, 2]},
        {"labels": ["red"]},
        {"history": "abc"},
    ),
}
