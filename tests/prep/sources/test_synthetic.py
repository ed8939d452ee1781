"""The synthetic set: reproducible, balanced, and its modalities agree."""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmfm.data.tokenizer import load_tokenizer
from mmfm_prep.make import make
from mmfm_prep.registries.things import COLOURS, PITCHES, SHAPES, Thing, captions, draw, play
from mmfm_prep.sources.synthetic import Config
from tests.prep.reading import read_samples

SMALL = {"train_samples": 80, "val_samples": 40}


def files(folder: Path) -> dict[str, bytes]:
    """All but the indexes, which hold the time of their tar."""
    found = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".idx"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def test_the_same_options_give_the_same_bytes(tmp_path: Path) -> None:
    make(Config(**SMALL), tmp_path / "a")
    make(Config(**SMALL), tmp_path / "b")
    make(Config(**SMALL, seed=1), tmp_path / "c")
    first, second, other = (files(tmp_path / n) for n in "abc")
    assert first == second
    assert all(first[n] != other[n] for n in first if n.endswith(".tar"))


def test_the_manifest_sums_to_what_is_in_the_tars(tmp_path: Path) -> None:
    manifest = make(Config(**SMALL), tmp_path / "set")
    for shard in manifest["shards"]:
        samples = list(read_samples(tmp_path / "set" / shard["name"]))
        (modality_set,) = shard["modality_sets"]
        endings = {"audio": "flac", "image": "png"}
        wanted = {"json", *(endings[m] for m in modality_set.split("+") if m != "text")}
        assert len(samples) == shard["samples"] == shard["modality_sets"][modality_set]
        assert all(set(content) == wanted for _, content in samples)
    assert sum(manifest["totals"].values()) == 120
    # 0.55, 0.15, 0.15, 0.15 of 80 and of 40
    assert manifest["totals"] == {
        "audio+image+text": 66,
        "image+text": 18,
        "audio+text": 18,
        "audio+image": 18,
    }


def test_val_has_combinations_that_train_never_had() -> None:
    groups: dict[str, set[str]] = {"train": set(), "val": set()}
    for sample in Config(train_samples=400, val_samples=100).samples():
        groups[sample.split].add(sample.group)
    assert len(groups["train"]) == 173
    assert len(groups["val"]) == 43
    assert not groups["train"] & groups["val"]


def test_labels_are_balanced() -> None:
    shapes = Counter(s.labels["shape"] for s in Config(**SMALL, seed=3).samples())
    assert set(shapes) == set(SHAPES)
    assert max(shapes.values()) < 3 * min(shapes.values())


def test_pictures_and_sounds_have_the_size_asked_for() -> None:
    config = Config(**SMALL, image_size=48, sample_rate=16000, seconds=0.3)
    one = next(s for s in config.samples() if s.modality_set == "audio+image+text")
    assert one.image is not None
    assert one.audio is not None
    assert Image.open(io.BytesIO(one.image)).size == (48, 48)
    wave, rate = soundfile.read(io.BytesIO(one.audio))
    assert (len(wave), rate) == (4800, 16000)
    assert 0.02 < np.sqrt(np.mean(wave**2)) < 0.8


def test_any_of_the_seven_sets_can_be_asked_for() -> None:
    config = Config(train_samples=10, val_samples=2, sets={"text": 1, "image": 1})
    assert Counter(s.modality_set for s in config.samples()) == {"text": 6, "image": 6}


@pytest.mark.parametrize("colour", COLOURS)
def test_the_drawing_has_the_colour_that_its_caption_says(colour: str) -> None:
    thing = Thing("circle", colour, 3, "large")
    pixels = np.asarray(draw(thing, 32, np.random.default_rng(0)), dtype=float).reshape(-1, 3)
    distance = np.abs(pixels - np.array(COLOURS[colour])).max(1)
    assert 0.25 < np.mean(distance < 25) < 0.6


def test_a_caption_names_every_attribute() -> None:
    texts = captions(Thing("cross", "purple", 2, "large"))
    assert "two large purple crosses" in texts["en"]
    assert texts["de"] == ["zwei große violette Kreuze", "hier sind zwei große violette Kreuze"]
    assert captions(Thing("ring", "red", 1, "small"))["de"][0] == "ein kleiner roter Ring"
    everything = list(itertools.product(SHAPES, COLOURS, (1, 2, 3), ("small", "large")))
    said = [text for t in everything for texts in captions(Thing(*t)).values() for text in texts]
    assert len(set(said)) == len(said) == 216 * 6


def test_the_number_of_beeps_is_the_count() -> None:
    for count in (1, 2, 3):
        thing = Thing("circle", "red", count, "small")
        wave = play(thing, 8000, 0.5, np.random.default_rng(count))
        loud = np.convolve(np.abs(wave), np.ones(80) / 80, "same") > 0.1
        assert np.sum(np.diff(loud.astype(int)) == 1) == count


def test_colour_is_the_pitch() -> None:
    for colour, pitch in PITCHES.items():
        thing = Thing("circle", colour, 3, "large")
        wave = play(thing, 8000, 0.5, np.random.default_rng(1))
        spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 65536))
        peak = np.argmax(spectrum) * 8000 / 65536
        assert abs(np.log2(peak / pitch)) < 0.5 / 12


def test_the_tokenizer_knows_the_captions(tmp_path: Path) -> None:
    make(Config(**SMALL), tmp_path / "set")
    tokenizer = load_tokenizer(tmp_path / "set" / "tokenizer")
    text = "drei kleine grüne Sterne"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids).strip() == text
    assert len(ids) < 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sets": {"smell": 1.0}}, "'smell' must be one of audio, audio\\+image"),
        ({"sets": {"text": 0.0}}, "must not all be 0"),
        ({"sets": {"text": -1.0}}, "must be 0 or more"),
        ({"val_combinations": 1.0}, "between 0 and 1"),
        ({"train_samples": 0}, "1 or more"),
        ({"samples_per_shard": 0}, "1 or more"),
        ({"image_size": 8}, "at least 16"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**options)


def test_questions_have_the_answer_of_their_sample(tmp_path: Path) -> None:
    """The group names the attributes; a sample without a text isn't asked."""
    manifest = make(Config(**SMALL, questions=True), tmp_path / "set")
    asked = Counter()
    for shard in manifest["shards"]:
        for _, content in read_samples(tmp_path / "set" / shard["name"]):
            meta = json.loads(content["json"])
            labels = meta["labels"]
            assert ("answer" in labels) == ("texts" in meta)
            if "texts" in meta:
                (question,) = meta["texts"]["en"]
                number, _, colour, shape = meta["group"].split("-")
                about = [w for w in ("shape", "colour", "number", "many") if w in question]
                answers = {"shape": shape, "colour": colour, "number": number, "many": number}
                assert labels["answer"] == answers[about[0]]
                asked[about[0]] += 1
    assert len(asked) == 4
