"""Chunks of drafts: found again when they are complete, made anew when something changed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from mmfm_prep.augment.text import TextAugmentation
from mmfm_prep.filters.options import Filters
from mmfm_prep.making.draft import Draft, LeftOut, Made, Recipe
from mmfm_prep.making.media import Processing
from mmfm_prep.making.spool import CHUNK, Spool, chunks
from tests.prep.making.test_media import TONE, clip, encoded, noise

RECIPE = Recipe(
    media=Processing(),
    filters=Filters(),
    augment=TextAugmentation(),
    seed=0,
    source="mine",
    licence="CC0",
)


def draft(number: int, **settings) -> Draft:
    name = f"{number}"
    return Draft(place=f"a.csv:{name}", key=name, id=name, group=name, **settings)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    picture, sound = encoded(noise(9, 7), "PNG"), clip(TONE)
    (tmp_path / "a.wav").write_bytes(sound)
    drafts = [
        draft(1, image=picture, audio=tmp_path / "a.wav", texts={"fr": [" Été"]}, time=3.5),
        LeftOut("a.csv:2", "id is empty"),
        draft(3, image=tmp_path / "gone.png"),
        draft(4, texts={"en": ["four"]}, split="val", labels={"n": "4"}, meta={"numbers": [1.5]}),
    ]
    (chunk,) = chunks(drafts, RECIPE)
    spool = Spool(tmp_path)
    assert not spool.has(chunk)
    assert spool.complete(chunk, RECIPE) == 4
    assert spool.has(chunk)
    one, two, three, four = spool.read(chunk.name, media=True)
    assert isinstance(one, Made)
    assert (one.sample.image, one.sample.audio, one.time) == (picture, sound, 3.5)
    assert one.sample.texts == {"fr": ["Été"]}
    assert (one.sample.source, one.sample.licence) == ("mine", "CC0")
    assert (two, three) == (
        LeftOut("a.csv:2", "id is empty"),
        LeftOut("a.csv:3", "file is missing"),
    )
    assert isinstance(four, Made)
    assert (four.sample.split, four.sample.labels) == ("val", {"n": "4"})
    assert four.sample.meta == {"numbers": [1.5]}
    light = next(spool.read(chunk.name, media=False))
    assert isinstance(light, Made)
    assert (light.sample.image, light.sample.digests) == (b"", one.sample.digests)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".chunk", ".wav"]


def test_chunks_are_bounded_by_number_and_bytes() -> None:
    many = [draft(i, texts={"en": ["a"]}) for i in range(2 * CHUNK + 1)]
    assert [len(chunk.drafts) for chunk in chunks(many, RECIPE)] == [CHUNK, CHUNK, 1]
    large = [draft(i, image=bytes(9 << 20)) for i in range(5)]
    assert [len(chunk.drafts) for chunk in chunks(large, RECIPE)] == [4, 1]
    assert list(chunks([], RECIPE)) == []


def test_names_tell_what_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"some")

    def names(recipe: Recipe = RECIPE, text: str = "a") -> tuple[str, str]:
        (chunk,) = chunks([draft(1, image=path, texts={"en": [text]})], recipe)
        return chunk.name, chunk.digest

    first = names()
    assert names() == first
    assert names(text="b")[1] != first[1]
    smaller = replace(RECIPE, media=Processing(image_longest=9))
    assert names(smaller)[1] != first[1]
    os.utime(path, ns=(1, 1))  # written anew, perhaps: not to be relied upon, but the same by name
    assert names()[0] != first[0]
    assert names()[1] == first[1]
    path.write_bytes(b"other")
    assert names()[1] != first[1]


def test_a_chunk_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    (chunk,) = chunks([draft(1, texts={"en": ["a"]})], RECIPE)
    monkeypatch.setattr(Recipe, "complete", fail)
    with pytest.raises(RuntimeError):
        Spool(tmp_path).complete(chunk, RECIPE)
    assert list(tmp_path.iterdir()) == []


def test_other_modalities_wait_too(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(b"GIF")
    others = {"video": {"gif": tmp_path / "a.gif"}, "depth": {"npy": b"NPY", "json:far": [1.5]}}
    (chunk,) = chunks([draft(1, others=others)], RECIPE)
    spool = Spool(tmp_path)
    spool.complete(chunk, RECIPE)
    (made,) = spool.read(chunk.name, media=True)
    assert isinstance(made, Made)
    assert made.sample.others == {
        "video": {"gif": b"GIF"},
        "depth": {"npy": b"NPY", "json:far": [1.5]},
    }
    assert made.sample.modality_set == "depth+video"
    (light,) = spool.read(chunk.name, media=False)
    assert isinstance(light, Made)
    assert light.sample.others["video"] == {"gif": b""}
    (other,) = chunks([draft(1, others={**others, "depth": {"npy": b"NPZ"}})], RECIPE)
    assert other.name != chunk.name
    (tmp_path / "a.gif").unlink()
    (gone,) = chunks([draft(1, others=others)], RECIPE)
    spool.complete(gone, RECIPE)
    assert list(spool.read(gone.name, media=True)) == [LeftOut("a.csv:1", "file is missing")]
