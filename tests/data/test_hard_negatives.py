"""The table of hard negatives, what is drawn from it, and the pass over all training samples."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmfm.config import from_dict
from mmfm.data.every_sample import EverySample
from mmfm.data.facts import read_facts, visible
from mmfm.data.hard_negatives import Direction, NegativeTable, Numbers
from mmfm.data.manifest import Manifest
from mmfm.data.pipeline import DataConfig, Pipeline
from mmfm.types import Batch
from tests.data.make_shards import tri_modal_shards, write_set

TO_TEXT, TO_IMAGE = Direction(("image",), ("text",)), Direction(("text",), ("image",))
Specs = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("negatives") / "set", tri_modal_shards())


def sources(folder: Path) -> list[tuple[str, Manifest]]:
    return [("set", Manifest.open(str(folder), ["train"]))]


def make_table(
    folder: Path, path: Path, near: dict[Direction, dict[int, list[int]]], per_sample: int = 1
) -> NegativeTable:
    """`near`: the candidates of some samples; the others have none."""
    candidates = {d: np.full((len(Numbers(sources(folder))), 3), -1, np.int32) for d in near}
    for direction, of in near.items():
        for number, found in of.items():
            candidates[direction][number, : len(found)] = found
    NegativeTable.write(path, candidates, {"step": 4, "per_sample": per_sample})
    return NegativeTable(path)


def pipeline(folder: Path, specs: Specs, table: NegativeTable | None, **more: Any) -> Pipeline:
    config = from_dict(
        DataConfig,
        {
            "sources": {
                "set": {
                    "path": str(folder),
                    "splits": ["train"],
                    "subset": more.pop("subset", None),
                }
            },
            "global_batch_size": 24,
            "streams": 4,
            "workers": more.pop("workers", 0),
        },
    )
    settings = {"seed": 1, "rank": 0, "world_size": 1} | more
    return Pipeline(config, specs, negatives=table, **settings)


def behind(batch: Batch) -> dict[str, list[tuple[str, int]]]:
    """Modality ▶ (id, stream) of each negative."""
    at = {i for i, negative in enumerate(batch["negative"].tolist()) if negative}
    return {
        m: [(batch["sample_id"][i], int(batch["stream"][i])) for i in rows.tolist() if i in at]
        for m, rows in batch["rows"].items()
    }


def test_numbers_and_places() -> None:
    shards = [[type("S", (), {"samples": n}) for n in sizes] for sizes in ([3, 2], [4])]
    many = [(str(i), type("M", (), {"shards": s})) for i, s in enumerate(shards)]
    numbers = Numbers(many)  # type: ignore[arg-type]
    places = [numbers.place(n) for n in range(len(numbers))]
    assert places == [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0), (0, 1, 1)] + [
        (1, 0, i) for i in range(4)
    ]
    assert [numbers.number(*p) for p in places] == list(range(9))


def test_table_is_kept_as_it_is(folder: Path, tmp_path: Path) -> None:
    near = {TO_TEXT: {5: [7, 9], 6: [1, 2, 3]}, TO_IMAGE: {5: [11]}}
    table = make_table(folder, tmp_path / "t", near)
    assert table.directions == [TO_TEXT, TO_IMAGE]
    assert table.settings["step"] == 4
    for again in (table, pickle.loads(pickle.dumps(table))):
        assert again.candidates(TO_TEXT, 5) == [7, 9]
        assert again.candidates(TO_TEXT, 6) == [1, 2, 3]
        assert again.candidates(TO_IMAGE, 5) == [11]
        assert again.candidates(TO_IMAGE, 6) == []
    (tmp_path / "broken").write_text("{}")
    with pytest.raises(ValueError, match="broken is no table of negatives"):
        NegativeTable(tmp_path / "broken")


def everything_near(folder: Path) -> dict[Direction, dict[int, list[int]]]:
    """Three candidates of other groups for each of the 144 samples, some of which lack a side."""
    with_text, with_image = [*range(144)], [*range(96)]
    return {
        TO_TEXT: {n: [with_text[(n + step) % 144] for step in (10, 20, 30)] for n in range(144)},
        TO_IMAGE: {n: [with_image[(n + step) % 96] for step in (11, 21, 31)] for n in range(144)},
    }


def test_each_sample_brings_its_own(folder: Path, specs: Specs, tmp_path: Path) -> None:
    """Behind the step's samples, which stay as they are; those without a pair bring none."""
    near = everything_near(folder)
    table = make_table(folder, tmp_path / "t", near, per_sample=2)
    plain = next(iter(pipeline(folder, specs, None)))[0]
    batch = next(iter(pipeline(folder, specs, table)))[0]
    own = batch["negative"].logical_not()
    assert "negative" not in plain
    assert batch["sample_id"][:24] == plain["sample_id"]
    assert own.tolist() == [True] * 24 + [False] * (len(own) - 24)
    for key in ("group", "mask_seed", "stream", "masked_view"):
        assert torch.equal(batch[key][:24], plain[key])
    has = {m: set(rows.tolist()) for m, rows in plain["rows"].items()}
    paired = sorted(has["image"] & has["text"])
    assert 0 < len(paired) < 24
    assert not batch["masked_view"][24:].any()
    found = behind(batch)
    assert not found["audio"]
    for modality, direction in (("text", TO_TEXT), ("image", TO_IMAGE)):
        assert len(found[modality]) == 2 * len(paired)
        for at, sample in enumerate(paired):
            number = int(plain["sample_id"][sample].split("-")[1])
            taken = found[modality][2 * at : 2 * at + 2]
            assert len({i for i, _ in taken}) == 2
            for name, stream in taken:
                assert int(name.split("-")[1]) in near[direction][number]
                assert stream == plain["stream"][sample]


def test_what_is_drawn_depends_on_the_place_alone(
    folder: Path, specs: Specs, tmp_path: Path
) -> None:
    """Not on ranks, micro-batches, workers, restarts, or other candidates; and it changes."""
    table = make_table(folder, tmp_path / "t", everything_near(folder))
    steps = list(itertools.islice(pipeline(folder, specs, table), 3))
    want = [sorted(behind(batch)["text"]) for (batch,) in steps]
    assert len({tuple(x) for x in want}) == 3
    for settings in (
        {"micro_batch_size": 6},
        {"workers": 2, "micro_batch_size": 12},
        {"samples_seen": 24},
    ):
        run = pipeline(folder, specs, table, **settings)
        first = settings.get("samples_seen", 0) // 24
        for step, parts in zip(range(first, 3), run, strict=False):
            assert sorted(x for b in parts for x in behind(b)["text"]) == want[step]
    ranks = [pipeline(folder, specs, table, rank=r, world_size=2) for r in (0, 1)]
    firsts = [next(iter(rank))[0] for rank in ranks]
    assert sorted(x for b in firsts for x in behind(b)["text"]) == want[0]
    assert len({len(behind(b)["text"]) for b in firsts}) == 1
    near = everything_near(folder)
    turned = {d: {n: found[::-1] for n, found in of.items()} for d, of in near.items()}
    again = make_table(folder, tmp_path / "turned", turned)
    assert sorted(behind(next(iter(pipeline(folder, specs, again)))[0])["text"]) == want[0]


def test_another_is_taken_where_one_cannot_be_used(
    folder: Path, specs: Specs, tmp_path: Path
) -> None:
    """Of the own group, bad, or without candidates at all: then any other sample."""
    near = {TO_TEXT: {n: [n ^ 1, (n + 10) % 144] for n in range(0, 144, 3)}}  # n ^ 1: own group
    table = make_table(folder, tmp_path / "t", near)
    run = pipeline(folder, specs, table)
    negatives = run._dataset.negatives
    assert negatives is not None
    read, spoilt = negatives.reader.read, {15}

    def reading(source: int, shard: int, index: int) -> Any:
        raw = read(source, shard, index)
        if int(raw.sample_id.split("-")[1]) in spoilt:
            raw.meta["texts"] = [""]
        return raw

    negatives.reader.read = reading  # type: ignore[method-assign]
    for (batch,) in itertools.islice(run, 6):
        has = {m: set(rows.tolist()) for m, rows in batch["rows"].items()}
        paired = sorted(i for i in has["image"] & has["text"] if not batch["negative"][i])
        found = behind(batch)["text"]
        assert len(found) == len(paired)
        for sample, (name, _) in zip(paired, found, strict=True):
            number, other = int(batch["sample_id"][sample].split("-")[1]), int(name.split("-")[1])
            assert other // 2 != number // 2
            assert other not in spoilt
            if number % 3 == 0 and (number + 10) % 144 not in spoilt:
                assert other == (number + 10) % 144


def test_too_few_samples_of_another_group(folder: Path, specs: Specs, tmp_path: Path) -> None:
    table = make_table(folder, tmp_path / "t", {TO_TEXT: {}}, per_sample=150)
    with pytest.raises(ValueError, match=r"sample-\d+ has fewer than 150 samples of another group"):
        next(iter(pipeline(folder, specs, table)))


def test_none_is_taken_from_outside_the_subset(folder: Path, specs: Specs, tmp_path: Path) -> None:
    """And that is no bad sample."""
    table = make_table(folder, tmp_path / "t", {TO_TEXT: {}})
    run = pipeline(folder, specs, table, subset={"share": 0.3})
    ((_, manifest),) = run._dataset.reader.sources
    whole, shown = Manifest.open(str(folder), ["train"]), visible(manifest)
    assert 0 < shown.sum() < len(whole)
    names = set(np.array(read_facts(whole).names)[shown])
    taken = {n for (b,) in itertools.islice(run, 4) for n, _ in behind(b)["text"]}
    assert len(taken) > 10
    assert taken <= names
    assert not run.bad_counts


def test_every_sample_comes_once_in_batches_that_no_rank_changes(
    folder: Path, specs: Specs
) -> None:
    def batches(world_size: int) -> list[list[tuple[Batch, list[int]]]]:
        ranks = []
        for rank in range(world_size):
            data = EverySample(
                sources(folder), specs, batch_size=10, rank=rank, world_size=world_size
            )
            ranks.append([(batch, numbers.tolist()) for batch, numbers in data])
        return ranks

    (alone,) = batches(1)
    assert sorted(n for _, numbers in alone for n in numbers) == list(range(144))
    for batch, numbers in alone:
        assert batch["sample_id"] == [f"sample-{n}" for n in numbers]
        assert all(len(rows) == len(numbers) for rows in batch["rows"].values())
    ranks = batches(4)
    assert len({len(r) for r in ranks}) == 1
    assert {tuple(n) for r in ranks for _, n in r} == {tuple(n) for _, n in alone}
    assert [set(b["rows"]) for b, _ in ranks[0]] == [set(b["rows"]) for b, _ in ranks[3]]
