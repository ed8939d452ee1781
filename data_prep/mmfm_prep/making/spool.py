"""Where completed samples wait until all are there and it is known which stay.

Drafts are completed in chunks, each by one process into a file named after its place and a digest
of its drafts and the recipe. A file is whole or not there, so an interrupted make finds what is
done, and what changed since has another name. A line of JSON for each draft, then what its files
hold: nothing is ever unpickled.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mmfm.config import to_dict
from mmfm.data.endings import JSON
from mmfm_prep.making.draft import Draft, LeftOut, Made, Recipe
from mmfm_prep.sample import Sample

CHUNK = 64
_AT_ONCE = 16
CHUNK_BYTES = 32 << 20  # of pictures and sounds that travel with the drafts


@dataclass(frozen=True)
class Chunk:
    """Drafts that one process completes. `name`: of its file; `digest`: of its drafts without the
    times of files, so that a copy of the input has the same.
    """

    name: str
    digest: str
    drafts: list[Draft | LeftOut]


def chunks(drafts: Iterable[Draft | LeftOut], recipe: Recipe) -> Iterator[Chunk]:
    """`drafts` in chunks, which depend on them only, not on the number of processes."""
    model = recipe.filters.similarity.fingerprint()
    told = json.dumps([to_dict(recipe), model], sort_keys=True, default=str)
    held: list[Draft | LeftOut] = []
    size = number = 0
    for draft in drafts:
        held.append(draft)
        if isinstance(draft, Draft):
            media = (holder[name] for holder, name in _media(vars(draft)))
            size += sum(len(value) for value in media if isinstance(value, bytes))
        if len(held) == CHUNK or size >= CHUNK_BYTES:
            yield _chunk(number, held, told)
            held, size, number = [], 0, number + 1
    if held:
        yield _chunk(number, held, told)


def _media(plain: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Where the contents of files stand among the fields of a draft or sample: (holder, name)."""
    own = [(plain, "image"), (plain, "audio")]
    others = plain["others"].values()
    return own + [(held, e) for held in others for e in sorted(held) if not e.startswith(JSON)]


def _fields(of: Draft | Sample) -> dict[str, Any]:
    """Its fields, to put other things in the place of its files' contents."""
    plain = {f.name: getattr(of, f.name) for f in dataclasses.fields(of)}
    return plain | {"others": {modality: dict(held) for modality, held in of.others.items()}}


def _chunk(number: int, drafts: list[Draft | LeftOut], told: str) -> Chunk:
    plain = [_fields(d) if isinstance(d, Draft) else dict(vars(d)) for d in drafts]
    times = [_describe(draft) for draft in plain]
    text = json.dumps([told, plain], sort_keys=True, default=repr)
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape"))
    content = digest.hexdigest()
    digest.update(repr(times).encode())
    return Chunk(f"{number:06d}-{digest.hexdigest()[:24]}", content, drafts)


def _describe(draft: dict[str, Any]) -> list[int]:
    """Puts digests of bytes and the sizes of files in their place; the files' times are returned,
    which tell that a file was written anew.
    """
    times = []
    for holder, name in _media(draft) if "others" in draft else ():
        value = holder[name]
        if isinstance(value, bytes):
            holder[name] = hashlib.sha256(value).hexdigest()
        elif isinstance(value, Path):
            try:
                stat = value.stat()
                holder[name] = [str(value), stat.st_size]
                times.append(stat.st_mtime_ns)
            except (OSError, ValueError):
                holder[name] = [str(value), None]
    return times


class Spool:
    """The files of chunks in `folder`, which must be there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, chunk: Chunk) -> bool:
        """Whether the chunk is complete."""
        return self._path(chunk.name).exists()

    def complete(self, chunk: Chunk, recipe: Recipe) -> int:
        """Complete the drafts of a chunk and write its file; their number."""
        with tempfile.TemporaryDirectory(prefix=".", dir=self.folder) as folder:
            media, path = Path(folder, "media"), Path(folder, "chunk")
            with media.open("wb") as file:
                lines = [_line(made, file) for made in _completed(chunk.drafts, recipe)]
            with path.open("wb") as out, media.open("rb") as file:
                out.writelines(lines)
                out.write(b"\n")
                while block := file.read(1 << 20):
                    out.write(block)
                out.flush()
                os.fsync(out.fileno())  # what has its name must be whole after a power cut too
            os.replace(path, self._path(chunk.name))
        return len(chunk.drafts)

    def read(self, name: str, media: bool) -> Iterator[Made | LeftOut]:
        """What became of the drafts of a chunk; without `media` the contents of files are empty."""
        with self._path(name).open("rb") as file:
            lines = list(itertools.takewhile(b"\n".__ne__, file))
            for line in lines:
                yield _parsed(json.loads(line), file if media else None)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.chunk"


def _completed(drafts: list[Draft | LeftOut], recipe: Recipe) -> Iterator[Made | LeftOut]:
    """A few at a time, so that only these are held."""
    for start in range(0, len(drafts), _AT_ONCE):
        yield from recipe.complete(drafts[start : start + _AT_ONCE])


def _line(made: Made | LeftOut, media: BinaryIO) -> bytes:
    """The line of JSON of a draft; the contents of its files go to the end of `media`."""
    told: dict[str, Any]
    if isinstance(made, LeftOut):
        told = {"place": made.place, "reason": made.reason}
    else:
        sample = _fields(made.sample)
        for holder, name in _media(sample):
            data = holder[name]
            holder[name] = len(data) if data else None
            media.write(data or b"")
        told = {"place": made.place, "sample": sample, "time": made.time}
        told |= {"signatures": made.signatures, "counts": made.counts}
        for holder, name in ((sample, "digests"), (told, "signatures")):
            holder[name] = {k: base64.b64encode(v).decode() for k, v in holder[name].items()}
    return json.dumps(told).encode() + b"\n"


def _parsed(told: dict[str, Any], media: BinaryIO | None) -> Made | LeftOut:
    if "reason" in told:
        return LeftOut(told["place"], told["reason"])
    sample = told.pop("sample")
    for holder, name in ((sample, "digests"), (told, "signatures")):
        holder[name] = {kind: base64.b64decode(text) for kind, text in holder[name].items()}
    for holder, name in _media(sample):
        if holder[name] is not None:
            holder[name] = media.read(holder[name]) if media else b""
    return Made(sample=Sample(**sample), **told)
