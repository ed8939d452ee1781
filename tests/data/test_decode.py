"""Reading and decoding one sample: ids, hashes, seeds, labels, limits, bad metadata, counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmfm.config import ConfigError, from_dict
from mmfm.data.decode import SampleDecoder, build_transforms
from mmfm.data.manifest import Manifest
from mmfm.data.pipeline import DataConfig
from mmfm.data.quarantine import BadRecord, Quarantine, check_bad_share
from mmfm.data.reader import RawSample, SampleReader, hash63
from mmfm.data.transforms import image
from mmfm.data.transforms.base import BadSample
from mmfm.types import IGNORE_INDEX, Label
from tests.data.make_shards import Files, files_of, png, write_set

Specs = dict[str, dict[str, Any]]


def raw_sample(meta: dict[str, Any], **files: bytes) -> RawSample:
    return RawSample(files, {"texts": ["a"]} | meta, "the id", "set/0.tar/key", ("image", "text"))


def decoder_of(specs: Specs, **arguments: Any) -> SampleDecoder:
    return SampleDecoder(build_transforms(specs), train=True, **arguments)


def one_shard(folder: Path, samples: list[tuple[str, Files]]) -> SampleReader:
    return SampleReader([("set", Manifest.open(write_set(folder, [samples])))])


def test_hashes_are_stable_and_63_bits() -> None:
    assert hash63("sample-1") == 3761103895678897378  # b2sum -l 64, halved
    values = [hash63(str(i)) for i in range(1000)]
    assert len(set(values)) == 1000
    assert 0 <= min(values) < 2**60 < 2**62 < max(values) < 2**63


def test_group_is_the_samples_own_without_one(specs: Specs) -> None:
    decoder = decoder_of(specs)
    groups = {
        name: decoder.decode(raw_sample(meta, png=png(1)), 5).group
        for name, meta in {
            "none": {},
            "empty": {"group": ""},
            "zero": {"group": 0},
            "text": {"group": "0"},
        }.items()
    }
    assert groups["none"] == groups["empty"] == hash63("the id")
    assert groups["zero"] == groups["text"] == hash63("0")


def test_randomness_comes_from_the_seed_for_each_modality_apart(specs: Specs) -> None:
    many = {"texts": [f"text {i}" for i in range(50)]}
    cropped = image.Config(crop_scale=(0.2, 1.0), flip=0.5)
    plain = decoder_of(specs)
    augmented = SampleDecoder(build_transforms(specs, {"image": cropped}), train=True)
    one, same, other = (
        plain.decode(raw_sample(many, png=png(1)), seed) for seed in (7, 7, 2**63 - 1)
    )
    assert one.mask_seed == same.mask_seed != other.mask_seed
    assert 0 <= one.mask_seed < 2**63
    assert (one.inputs["text"] == same.inputs["text"]).all()
    assert not np.array_equal(one.inputs["text"], other.inputs["text"])
    # Augmenting pictures changes no choice of text.
    also = augmented.decode(raw_sample(many, png=png(1)), 7)
    assert (also.inputs["text"] == one.inputs["text"]).all()
    assert not np.array_equal(also.inputs["image"], one.inputs["image"])


def test_labels_become_class_numbers(specs: Specs) -> None:
    decoder = decoder_of(specs, label=Label("kind", ["cat", "dog", "3"]))

    def label(labels: Any) -> int | None:
        return decoder.decode(raw_sample({"labels": labels}, png=png(1)), 1).label

    assert label({"kind": "dog"}) == 1
    assert label({"kind": 3}) == 2
    assert label({"kind": None}) == label({"other": "dog"}) == label({}) == IGNORE_INDEX
    assert label(None) == label("dog") == IGNORE_INDEX
    with pytest.raises(ValueError, match=r"set/0\.tar/key\.json: label kind = 'cow' .*cat, dog"):
        label({"kind": "cow"})
    assert decoder_of(specs).decode(raw_sample({}, png=png(1)), 1).label is None


def test_a_bad_modality_names_the_sample(specs: Specs) -> None:
    with pytest.raises(BadSample, match="the id: image missing") as caught:
        decoder_of(specs).decode(raw_sample({}), 1)
    assert (caught.value.reason, caught.value.sample_id) == ("image missing", "the id")


def test_what_the_index_does_not_list_is_not_decoded(specs: Specs) -> None:
    sample = decoder_of(specs).decode(raw_sample({}, png=png(1), flac=b"whatever"), 1)
    assert set(sample.inputs) == {"image", "text"}


def test_reader_gives_files_metadata_and_modalities(tmp_path: Path) -> None:
    samples = [("dir/one", files_of(1)), ("two", {"png": png(2), "cls": b"7"})]
    reader = one_shard(tmp_path, samples)
    one, two = reader.read(0, 0, 0), reader.read(0, 0, 1)
    assert (one.sample_id, one.place) == ("sample-1", "set/000.tar/dir/one")
    assert one.modalities == ("audio", "image", "text")
    assert one.files == samples[0][1]
    assert one.meta == json.loads(samples[0][1]["json"])
    assert two.sample_id == two.place == "set/000.tar/two"  # no id of its own
    assert (two.meta, two.modalities) == ({}, ("image",))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "metadata not valid JSON"),
        (b"\xff", "metadata not valid JSON"),
        (b"[" * 100_000, "metadata not valid JSON"),
        (b"[1]", "metadata not a JSON object"),
    ],
)
def test_bad_metadata_is_a_bad_sample(tmp_path: Path, content: bytes, reason: str) -> None:
    reader = one_shard(tmp_path, [("a", {"png": png(1), "json": content})])
    with pytest.raises(BadSample) as caught:
        reader.read(0, 0, 0)
    assert (caught.value.reason, caught.value.sample_id) == (reason, "set/000.tar/a")


def test_too_large_a_sample_is_not_read(tmp_path: Path) -> None:
    reader = one_shard(tmp_path, [("a", {"png": bytes(5000)})])
    reader.max_sample_bytes = 4000
    with pytest.raises(BadSample, match="sample too large"):
        reader.read(0, 0, 0)


def test_transforms_come_from_the_config_or_their_module(specs: Specs) -> None:
    config = from_dict(
        DataConfig,
        {
            "sources": {"a": {"path": "x"}},
            "global_batch_size": 8,
            "transforms": {"image": {"type": "image", "flip": 0.5}},
        },
    )
    transforms = build_transforms(specs, config.transforms)
    assert transforms["image"].augments
    assert list(transforms) == list(specs)
    with pytest.raises(ConfigError, match=r"data\.transforms\.image: the model has only text"):
        build_transforms({"text": specs["text"]}, config.transforms)
    with pytest.raises(ConfigError, match="no module 'vidoe'"):
        build_transforms({"vidoe": {}})
    with pytest.raises(ConfigError, match=r"data\.sources\.a: .*x"):
        config.open_sources()


def test_quarantine_counts_and_appends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "quarantine.jsonl"
    one, two = Quarantine(path, 0), Quarantine(path, 1)
    one.add([], 0)
    assert not path.exists()
    one.add([BadRecord("image unreadable", "ä", "x"), BadRecord("text empty", "b", "")], 3)
    two.add([BadRecord("image unreadable", "c", "half \ud800")], None)
    assert one.counts == {"image unreadable": 1, "text empty": 1}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(x["rank"], x["step"], x["sample"]) for x in lines] == [
        (0, 3, "ä"),
        (0, 3, "b"),
        (1, None, "c"),
    ]
    Quarantine(None, 0).add([BadRecord("r", "s", "")], 1)


def test_too_large_a_share_of_bad_samples_is_an_error() -> None:
    check_bad_share(10, 32, 0.01)  # early: as if of 1,000
    check_bad_share(100, 10_000, 0.01)
    for bad, read in ((11, 32), (101, 10_000)):
        with pytest.raises(ValueError, match=rf"{bad} of {read} samples were bad.*max_bad_share"):
            check_bad_share(bad, read, 0.01)
