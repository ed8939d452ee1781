"""Folds, few samples a label and shares: what is in them, and that nobody sees the rest."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mmfm.config import ConfigError, from_dict
from mmfm.data import facts as facts_module
from mmfm.data.facts import read_facts
from mmfm.data.manifest import Manifest
from mmfm.data.order import Order
from mmfm.data.pipeline import DataConfig
from mmfm.data.reader import SampleReader
from mmfm.data.sequential import SequentialData
from mmfm.data.subset import SubsetConfig, subset_of
from mmfm.data.transforms.base import BadSample
from tests.data.make_shards import Files, png, write_set

SIZES = {"red": 20, "green": 10, "blue": 5}


def sample(n: int, colour: str | list[str] | None, group: str | None = None) -> tuple[str, Files]:
    meta = {"id": f"id-{n}", "group": group, "texts": ["a thing"]}
    if colour is not None:
        meta["labels"] = {"colour": colour}
    files = {"json": json.dumps(meta).encode(), "png": png(n, 4)}
    return f"s{n:04d}", files


def samples(sizes: dict[str, int], per_group: int = 1) -> list[tuple[str, Files]]:
    colours = [colour for colour, n in sizes.items() for _ in range(n)]
    return [sample(n, c, f"{c}-{n // per_group}") for n, c in enumerate(colours)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    all_of = samples(SIZES)
    return write_set(tmp_path_factory.mktemp("subset"), [all_of[:12], all_of[12:]])


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """Groups of two or three samples."""
    return write_set(tmp_path_factory.mktemp("pairs"), [samples({"red": 31, "blue": 29}, 3)])


def inside(manifest: Manifest) -> list[int]:
    """The numbers of the samples that a pass over the data meets."""
    specs = {"image": {"size": 4, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}}
    data = SequentialData([("set", manifest)], specs, batch_size=64)
    found = [int(name.removeprefix("id-")) for batch in data for name in batch["sample_id"]]
    assert not data.bad_counts
    assert len(found) == len(manifest)
    return sorted(found)


def part(folder: Path, modalities: list[str] | None = None, **settings) -> Manifest:
    opened = Manifest.open(folder, modalities=modalities)
    return subset_of(opened, SubsetConfig(**settings))


def groups_of(folder: Path, numbers: list[int]) -> set[str]:
    facts = read_facts(Manifest.open(folder))
    names = dict(zip(facts.names, facts.groups, strict=True))
    return {names[f"id-{n}"] for n in numbers}


def test_facts(folder: Path) -> None:
    facts = read_facts(Manifest.open(folder))
    assert facts.first == [0, 12, 35]
    assert facts.names[:2] == ["id-0", "id-1"]
    assert facts.groups[12] == "red-12"
    assert facts.values("colour")[-1] == ("blue",)
    assert facts.values("shape")[-1] == ()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["a", 60 * "f" + "/" + 60 * "n", 91 * "n"])
def test_facts_of_any_tar(tmp_path: Path, form: int, name: str) -> None:
    """Long names, large pictures before the metadata and large metadata, times in pax headers."""
    metas = [{"id": "x" * length, "texts": ["t"]} for length in (1, 9000)]
    with tarfile.open(tmp_path / "0.tar", "w", format=form) as tar:
        for n, meta in enumerate(metas):
            files = {"a.bin": bytes(9000), "json": json.dumps(meta).encode(), "txt": b"t"}
            for ending, content in files.items():
                member = tarfile.TarInfo(f"{name}{n}.{ending}")
                member.size = len(content)
                if form == tarfile.PAX_FORMAT:
                    member.mtime = 0.5
                tar.addfile(member, io.BytesIO(content))
    assert read_facts(Manifest.open(tmp_path)).ids == ["x", "x" * 9000]


def test_facts_without_reading_pictures(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(facts_module, "_held", facts_module.Lru(1))
    monkeypatch.setattr(Manifest, "read_sample", lambda *_: pytest.fail("a whole sample was read"))
    assert len(read_facts(Manifest.open(folder)).ids) == 35


def test_metadata_that_cannot_be_read(tmp_path: Path) -> None:
    bad = ("bad", {"json": b"{", "png": png(1, 4)})
    none = ("none", {"png": png(2, 4)})
    facts = read_facts(Manifest.open(write_set(tmp_path, [[bad, none, sample(3, "red")]])))
    assert facts.ids == [None, None, "id-3"]
    assert facts.names[:2] == facts.groups[:2] == ["000.tar/bad", "000.tar/none"]


@pytest.mark.parametrize("label", [None, "colour"])
def test_folds_cut_the_data_by_group(pairs: Path, label: str | None) -> None:
    held_out = []
    for fold in range(4):
        settings = {"folds": 4, "fold": fold, "label": label, "seed": 2}
        out = inside(part(pairs, part="held_out", **settings))
        train = inside(part(pairs, **settings))
        assert sorted(out + train) == list(range(60))
        assert not groups_of(pairs, out) & groups_of(pairs, train)
        held_out.append(out)
    assert sorted(n for out in held_out for n in out) == list(range(60))
    assert {len(out) for out in held_out} <= {13, 14, 15, 16, 17}


def test_folds_hold_each_label_equally_often(folder: Path) -> None:
    for fold in range(5):
        out = inside(part(folder, folds=5, fold=fold, part="held_out", label="colour"))
        colours = Counter("red" if n < 20 else "green" if n < 30 else "blue" for n in out)
        assert colours == {"red": 4, "green": 2, "blue": 1}


def test_a_large_group_moves_no_other_label(tmp_path: Path) -> None:
    large = [sample(n, "red", "large") for n in range(6)]
    small = [sample(n, "blue", str(n)) for n in range(6, 14)]
    folder = write_set(tmp_path, [large + small])
    out = inside(part(folder, folds=2, part="held_out", label="colour"))
    assert sum(n >= 6 for n in out) == 4


def test_the_seed_draws_the_folds(folder: Path) -> None:
    one, again, other = (part(folder, folds=5, seed=seed) for seed in (1, 1, 2))
    assert inside(one) == inside(again) != inside(other)


def test_the_order_of_the_shards_changes_nothing(folder: Path, tmp_path: Path) -> None:
    all_of = samples(SIZES)
    other = write_set(tmp_path, [all_of[::-1]])
    for settings in ({"folds": 3}, {"share": 0.3}, {"per_label": 2}):
        settings["label"] = "colour"
        assert inside(part(folder, **settings)) == inside(part(other, **settings))


def test_few_samples_a_label(folder: Path) -> None:
    numbers = {n: inside(part(folder, per_label=n, label="colour", seed=7)) for n in (1, 3, 5)}
    assert [len(found) for found in numbers.values()] == [3, 9, 15]
    assert set(numbers[1]) < set(numbers[3]) < set(numbers[5])
    rest = inside(part(folder, per_label=5, label="colour", seed=7, part="held_out"))
    assert sorted(rest + numbers[5]) == list(range(35))


def test_labels_with_fewer_samples_are_told(tmp_path: Path) -> None:
    lists = [sample(20, ["red", "green"]), sample(21, ["green"]), sample(22, None)]
    manifest = part(write_set(tmp_path, [samples({"red": 4}) + lists]), per_label=3, label="colour")
    # The manifest names blue, too; of green there are two, and one of them is red as well.
    assert manifest.notes == ["2 labels have fewer than 3 samples: blue 0, green 2"]
    assert {20, 21} <= set(inside(manifest))
    assert 22 not in inside(manifest)


def test_the_few_are_drawn_of_those_with_a_modality(tmp_path: Path) -> None:
    pictures = samples({"red": 6})
    texts = [(key, {"json": files["json"]}) for key, files in samples({"red": 30})[6:]]
    few = part(write_set(tmp_path, [pictures + texts]), ["image"], per_label=4, label="colour")
    assert len(few) == 4
    assert set(inside(few)) < set(range(6))


@pytest.mark.parametrize("label", [None, "colour"])
def test_a_share_of_the_groups(pairs: Path, label: str | None) -> None:
    shares = [inside(part(pairs, share=s, label=label)) for s in (0.01, 0.1, 0.4)]
    assert set(shares[0]) < set(shares[1]) < set(shares[2])
    assert [len(groups_of(pairs, found)) for found in shares] == [1, 2, 8]
    rest = inside(part(pairs, share=0.4, label=label, part="held_out"))
    assert sorted(rest + shares[2]) == list(range(60))
    assert not groups_of(pairs, rest) & groups_of(pairs, shares[2])


def test_few_samples_of_a_fold(folder: Path) -> None:
    fold = {"folds": 5, "fold": 2, "label": "colour"}
    train = inside(part(folder, **fold))
    few = inside(part(folder, **fold, per_label=2))
    assert len(few) == 6
    assert set(few) < set(train)
    assert set(inside(part(folder, **fold, share=0.5))) < set(train)
    whole = inside(part(folder, **fold, part="held_out"))
    assert inside(part(folder, **fold, part="held_out", per_label=2)) == whole


def test_modalities_do_not_move_a_fold(folder: Path) -> None:
    """Two sources of the same samples hold the same ones out."""
    assert inside(part(folder, folds=3)) == inside(part(folder, ["image"], folds=3))


def data_config(folder: Path, **subset) -> DataConfig:
    source = {"path": str(folder), "subset": subset or None}
    raw = {"sources": {"a": source}, "global_batch_size": 4, "streams": 2, "workers": 0}
    return from_dict(DataConfig, raw, "data")


def test_training_draws_of_the_part_alone(folder: Path) -> None:
    config = data_config(folder, folds=5, label="colour")
    sources = config.open_sources()
    manifest = sources[0][1]
    order = Order(sources, 0, 2, 4)
    assert [(s.modality_set, s.samples) for s in order.strata] == [("image+text", 28)]
    assert order.ignored == {"a": 0}
    drawn = {
        manifest.index(draw.shard).key(draw.index)
        for step in range(28)
        for draw in order.rank_draws(step, 0, 1)
    }
    assert sorted(int(key[1:]) for key in drawn) == inside(manifest)


def test_another_part_is_another_order(tmp_path: Path) -> None:
    folder = write_set(tmp_path, [samples(SIZES)])
    settings = [{}, {"folds": 5}, {"folds": 5, "fold": 1}, {"folds": 5, "part": "held_out"}]
    orders = [Order(data_config(folder, **s).open_sources(), 0, 2, 4) for s in settings]
    assert len({order.fingerprint for order in orders}) == 4
    again = Order(data_config(folder, folds=5).open_sources(), 0, 2, 4)
    assert again.fingerprint == orders[1].fingerprint


def test_the_labels_names_stay(folder: Path) -> None:
    names = part(folder, per_label=1, label="colour").label_names
    assert names == Manifest.open(folder).label_names


def test_an_index_knows_who_is_outside(folder: Path) -> None:
    manifest = part(folder, share=0.5)
    index = manifest.index(0)
    members = np.concatenate([index.members(name) for name in index.set_names])
    assert len(members) == sum(manifest.shards[0].modality_sets.values()) < len(index)
    assert manifest.shards[0].samples == len(index) == 12
    assert {index.modalities(int(i)) for i in members} == {("image", "text")}


def test_nothing_outside_is_read(folder: Path) -> None:
    manifest = part(folder, share=0.5)
    reader, outside = SampleReader([("set", manifest)]), []
    for i in np.flatnonzero(~manifest.index(0).has_some()).tolist():
        with pytest.raises(BadSample, match=r"set/000\.tar/s\d+: outside the subset"):
            reader.read(0, 0, i)
        outside.append(i)
    assert 0 < len(outside) < 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 1}, "name folds, per_label or share"),
        ({"folds": 1}, "folds = 1 must be at least 2"),
        ({"folds": 3, "fold": 3}, "fold = 3: of folds = 3, the first is 0"),
        ({"share": 0.1, "fold": 1}, "fold = 1: of folds = None"),
        ({"share": 1.0}, "share = 1.0 must be between 0 and 1"),
        ({"per_label": 3}, "per_label = 3 needs a positive number, and the field"),
        ({"per_label": 0, "label": "colour"}, "per_label = 0 needs"),
        ({"per_label": 1, "share": 0.5, "label": "colour"}, "name one of them"),
        ({"folds": 2, "label": "color"}, "no field of the labels; did you mean 'colour'?"),
        ({"folds": 90, "fold": 89, "part": "held_out"}, "none is in the part 'held_out': 35 gro"),
        ({"folds": 2, "part": "test"}, "subset.part"),
    ],
)
def test_settings_that_cannot_be(folder: Path, settings, message: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.sources\.a") as raised:
        data_config(folder, **settings).open_sources()
    assert message in str(raised.value)


def test_tags_are_no_label_of_a_sample(folder: Path) -> None:
    manifest = Manifest.open(folder)
    manifest.label_names["tags"] = ["B-person", "O"]
    for more in ({"per_label": 1}, {"folds": 2}):
        with pytest.raises(ValueError, match=r"'tags': no sample has .* take a share"):
            subset_of(manifest, SubsetConfig(label="tags", **more))
