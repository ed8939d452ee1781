"""Pipeline and evaluation data: the same samples whatever the workers, ranks and restarts."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmfm.config import ConfigError, from_dict
from mmfm.data.manifest import Manifest
from mmfm.data.pipeline import DataConfig, Pipeline
from mmfm.data.sequential import SequentialData
from mmfm.types import IGNORE_INDEX, Batch, Label
from tests.data.make_shards import Files, png, tri_modal_shards, write_set

Specs = dict[str, dict[str, Any]]
COLOURS = Label("colour", ["red", "blue"])
SEEDED = {
    "image": {"type": "image", "crop_scale": [0.3, 1.0], "flip": 0.5},
    "audio": {"type": "audio", "random_crop": True, "gain_db": 6.0},
}


def make_pipeline(folder: Path, specs: Specs, workers: int = 0, **arguments: Any) -> Pipeline:
    config = from_dict(
        DataConfig,
        {
            "sources": {"set": {"path": str(folder), "splits": ["train"]}},
            "global_batch_size": 24,
            "streams": 4,
            "workers": workers,
            "transforms": SEEDED,
        },
    )
    return Pipeline(config, specs, **{"seed": 1, "rank": 0, "world_size": 1} | arguments)


def steps_of(pipeline: Pipeline, count: int) -> list[list[Batch]]:
    return list(itertools.islice(pipeline, count))


def per_sample(batch: Batch) -> list[dict[str, Any]]:
    """Each sample's own values, without the padding of the batch."""
    samples: list[dict[str, Any]] = [
        {k: batch[k][i] for k in ("sample_id", "sample_hash", "group", "mask_seed")}
        for i in range(len(batch["sample_id"]))
    ]
    for modality, rows in batch["rows"].items():
        for row, sample in enumerate(rows.tolist()):
            for key in (k for k in batch if k.split("_")[0] == modality and "mask" not in k):
                value = batch[key][row]
                mask = batch.get(f"{key}_mask")
                samples[sample][key] = value if mask is None else value[mask[row]]
    return samples


def assert_same(first: Any, second: Any) -> None:
    """Bit-equal batches (or values of one sample)."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    elif isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype
        assert torch.equal(first, second)
    else:
        assert first == second


def by_identity(batches: list[Batch]) -> list[dict[str, Any]]:
    samples = [sample for batch in batches for sample in per_sample(batch)]
    return sorted(samples, key=lambda s: (s["sample_id"], int(s["mask_seed"])))


def damaged(changes: dict[int, Files]) -> list[list[tuple[str, Files]]]:
    """The shards of the good set with some files of some samples (by number) replaced."""
    shards = tri_modal_shards()
    for number, files in changes.items():
        shard, place = divmod(number, 24)
        key, old = shards[shard][place]
        shards[shard][place] = (key, old | files)
    return shards


def test_batch_has_the_contracts_keys(good_set: Path, specs: Specs) -> None:
    batch = steps_of(make_pipeline(good_set, specs), 1)[0][0]
    assert batch["image"].shape[1:] == (3, 8, 8)
    assert batch["image"].dtype == torch.float32
    assert batch["text"].dtype == torch.int64
    assert batch["text_mask"].dtype == batch["audio_mask"].dtype == torch.bool
    assert batch["audio"].shape[1] % 400 == 0  # 100 ms
    assert len(batch["sample_id"]) == 24
    for key in ("group", "mask_seed", "sample_hash"):
        assert batch[key].shape == (24,)
        assert batch[key].dtype == torch.int64
    assert "labels" not in batch


def test_rows_follow_the_modalities_of_each_sample(good_set: Path, specs: Specs) -> None:
    sets = ["audio+image+text", "image+text", "audio+text"]
    for (batch,) in steps_of(make_pipeline(good_set, specs), 3):
        has = [sets[int(name.split("-")[1]) // 48].split("+") for name in batch["sample_id"]]
        for modality in specs:
            expected = [i for i, modalities in enumerate(has) if modality in modalities]
            assert batch["rows"][modality].tolist() == expected
            assert len(batch[modality]) == len(expected)


def test_a_modality_that_the_model_lacks_is_not_decoded(good_set: Path, specs: Specs) -> None:
    only = {"image": specs["image"]}
    config = {"sources": {"s": {"path": str(good_set)}}, "global_batch_size": 24, "streams": 4}
    pipeline = Pipeline(
        from_dict(DataConfig, config | {"workers": 0}), only, seed=1, rank=0, world_size=1
    )
    batch = steps_of(pipeline, 1)[0][0]
    assert set(batch["rows"]) == {"image"}
    assert not {"text", "audio", "text_mask"} & set(batch)
    with pytest.raises(ConfigError, match=r"none has a modality of the model \(video\)"):
        Pipeline(from_dict(DataConfig, config), {"video": {}}, seed=1, rank=0, world_size=1)


@pytest.mark.parametrize("workers", [1, 2])
def test_same_batches_for_any_number_of_workers(good_set: Path, specs: Specs, workers: int) -> None:
    alone = steps_of(make_pipeline(good_set, specs, micro_batch_size=12), 3)
    shared = steps_of(make_pipeline(good_set, specs, workers, micro_batch_size=12), 3)
    assert_same(alone, shared)


def test_augmentations_are_the_same_in_a_worker(good_set: Path, specs: Specs) -> None:
    source = {"path": str(good_set)}
    config = {"sources": {"set": source}, "global_batch_size": 24, "streams": 4}
    image = {"policy": "trivial_augment", "colour_jitter": [0.4, 0.4, 0.4, 0.1], "blur": 0.5}
    audio = {"speed": 0.1, "noise_snr_db": [10, 20]}
    chosen = {"image": {"type": "image", **image}, "audio": {"type": "audio", **audio}}

    def batches(workers: int) -> list[list[Batch]]:
        settings = from_dict(DataConfig, {**config, "workers": workers, "transforms": chosen})
        return steps_of(Pipeline(settings, specs, seed=1, rank=0, world_size=1), 2)

    torch.manual_seed(3)
    alone = batches(0)
    torch.manual_seed(4)
    assert_same(alone, batches(1))


@pytest.mark.parametrize("world_size", [2, 4])
def test_same_global_batches_for_any_number_of_ranks(
    good_set: Path, specs: Specs, world_size: int
) -> None:
    whole = steps_of(make_pipeline(good_set, specs), 3)
    ranks = [
        steps_of(make_pipeline(good_set, specs, rank=r, world_size=world_size), 3)
        for r in range(world_size)
    ]
    for step in range(3):
        parts = [batch for rank in ranks for batch in rank[step]]
        assert_same(by_identity(whole[step]), by_identity(parts))


def test_micro_batches_are_whole_streams(good_set: Path, specs: Specs) -> None:
    whole = steps_of(make_pipeline(good_set, specs), 2)
    split = steps_of(make_pipeline(good_set, specs, micro_batch_size=6), 2)
    for one, four in zip(whole, split, strict=True):
        assert [len(b["sample_id"]) for b in four] == [6, 6, 6, 6]
        assert_same(
            [s for b in one for s in per_sample(b)], [s for b in four for s in per_sample(b)]
        )
    with pytest.raises(ConfigError, match=r"micro_batch_size = 8.*one of 6, 12, 24"):
        make_pipeline(good_set, specs, micro_batch_size=8)
    with pytest.raises(ConfigError, match="micro_batch_size = 18"):
        make_pipeline(good_set, specs, micro_batch_size=18)


def test_resume_equals_the_uninterrupted_run(good_set: Path, specs: Specs) -> None:
    pipeline = make_pipeline(good_set, specs)
    whole = steps_of(pipeline, 9)
    assert pipeline.samples_seen == 9 * 24
    assert_same(whole[6:], steps_of(make_pipeline(good_set, specs, samples_seen=6 * 24), 3))
    with pytest.raises(ValueError, match="samples_seen = 100 is no multiple"):
        make_pipeline(good_set, specs, samples_seen=100)


def test_a_sample_is_augmented_differently_each_time(good_set: Path, specs: Specs) -> None:
    seen: dict[str, list[dict[str, Any]]] = {}
    for sample in by_identity([b for s in steps_of(make_pipeline(good_set, specs), 30) for b in s]):
        seen.setdefault(sample["sample_id"], []).append(sample)
    several = [group for group in seen.values() if len(group) > 2]
    assert several
    for group in several:
        assert len({int(s["mask_seed"]) for s in group}) == len(group)
        assert len({int(s["group"]) for s in group}) == 1
    texts = [{tuple(s["text"].tolist()) for s in group} for group in several]
    assert max(map(len, texts)) > 1
    pictures = [g for g in several if "image" in g[0]]
    equal = sum(torch.equal(g[0]["image"], g[1]["image"]) for g in pictures)
    assert equal < len(pictures) / 10  # a crop can come twice, rarely


def test_bad_samples_are_replaced_and_nothing_else_moves(
    tmp_path: Path, good_set: Path, specs: Specs
) -> None:
    bad = {
        3: {"png": png(3)[:150]},
        50: {"png": b"not a picture"},
        20: {"flac": b"fLaC" + bytes(100)},
        100: {"json": b'{"id": "sample-100", "texts": ["a", 5]}'},
    }
    folder = write_set(tmp_path / "bad", damaged(bad))
    quarantine = tmp_path / "run" / "quarantine.jsonl"
    names = {f"sample-{n}" for n in bad}
    pipeline = make_pipeline(folder, specs, quarantine=quarantine)
    replaced = []
    with_bad, without = steps_of(pipeline, 20), steps_of(make_pipeline(good_set, specs), 20)
    for step, ((batch,), (good,)) in enumerate(zip(with_bad, without, strict=True)):
        for key in ("image", "audio", "text"):
            assert batch["rows"][key].tolist() == good["rows"][key].tolist()
        for one, other in zip(per_sample(batch), per_sample(good), strict=True):
            assert one["sample_id"] not in names
            if other["sample_id"] in names:
                replaced.append((step, other["sample_id"]))
                assert one["mask_seed"] == other["mask_seed"]  # the place's own seed
            else:
                assert_same(one, other)
    assert len(replaced) >= 5
    lines = [json.loads(line) for line in quarantine.read_text().splitlines()]
    assert len(lines) == sum(pipeline.bad_counts.values()) >= len(replaced)
    assert {line["sample"] for line in lines} == names
    assert set(replaced) <= {(line["step"], line["sample"]) for line in lines}
    assert set(pipeline.bad_counts) == {
        "image unreadable",
        "audio unreadable",
        "text not a string",
    }
    assert {line["rank"] for line in lines} == {0}
    assert pipeline.samples_read == 20 * 24 + len(lines)


def test_replacements_are_the_same_for_any_workers_and_ranks(tmp_path: Path, specs: Specs) -> None:
    bad: dict[int, Files] = {n: {"png": b"broken"} for n in range(0, 48, 3)}
    folder = write_set(tmp_path, damaged(bad))
    alone = make_pipeline(folder, specs)
    whole = steps_of(alone, 4)
    workers = make_pipeline(folder, specs, workers=2)
    assert_same(whole, steps_of(workers, 4))
    assert workers.bad_counts == alone.bad_counts
    ranks = [make_pipeline(folder, specs, rank=r, world_size=2) for r in range(2)]
    parts = [steps_of(p, 4) for p in ranks]
    for step in range(4):
        assert_same(by_identity(whole[step]), by_identity(parts[0][step] + parts[1][step]))
    assert alone.bad_counts == ranks[0].bad_counts + ranks[1].bad_counts


def test_a_set_without_a_good_picture_is_an_error(tmp_path: Path, specs: Specs) -> None:
    folder = write_set(tmp_path, damaged({n: {"png": b""} for n in range(48, 96)}))
    with pytest.raises(ValueError, match=r"data\.sources\.set.*bad"):
        steps_of(make_pipeline(folder, specs), 1)


def test_a_kind_without_a_good_sample_is_an_error_that_names_one(
    tmp_path: Path, specs: Specs
) -> None:
    lone = [("lone", {"png": b"no picture"})]
    folder = write_set(tmp_path, [*tri_modal_shards(), lone])
    with pytest.raises(ValueError, match=r"seem to be bad, the last one: set/006\.tar/lone: image"):
        steps_of(make_pipeline(folder, specs), 40)


def test_labels(tmp_path: Path, good_set: Path, specs: Specs) -> None:
    for (batch,) in steps_of(make_pipeline(good_set, specs, label=COLOURS), 3):
        numbers = [int(name.split("-")[1]) for name in batch["sample_id"]]
        expected = [n % 2 if n % 5 else IGNORE_INDEX for n in numbers]
        assert batch["labels"].tolist() == expected
        assert batch["labels"].dtype == torch.int64
    pipeline = make_pipeline(good_set, specs, label=Label("colour", ["red"]))
    with pytest.raises(ValueError, match=r"^set/00\d\.tar/s\d+\.json: label colour = 'blue' is no"):
        steps_of(pipeline, 3)


def test_errors_of_a_worker_arrive_as_their_message(good_set: Path, specs: Specs) -> None:
    pipeline = make_pipeline(good_set, specs, workers=1, label=Label("colour", ["red"]))
    with pytest.raises(ValueError, match=r"^set/00\d\.tar/s\d+\.json: label colour = 'blue'"):
        steps_of(pipeline, 3)


def test_a_dead_worker_is_a_clear_error(good_set: Path, specs: Specs) -> None:
    steps = iter(make_pipeline(good_set, specs, workers=1))
    next(steps)
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="a data worker died"):
        list(itertools.islice(steps, 10))


def test_a_missing_shard_is_an_error_not_a_bad_sample(tmp_path: Path, specs: Specs) -> None:
    folder = write_set(tmp_path, tri_modal_shards())
    pipeline = make_pipeline(folder, specs)
    (folder / "000.tar").unlink()
    with pytest.raises(ValueError, match=r"000\.tar"):
        steps_of(pipeline, 8)


def test_a_damaged_tar_header_is_one_bad_sample(tmp_path: Path, specs: Specs) -> None:
    folder = write_set(tmp_path, tri_modal_shards())
    pipeline = make_pipeline(folder, specs)
    offset = int(Manifest.open(folder).index(0).offsets[5])
    with open(folder / "000.tar", "r+b") as tar:
        tar.seek(offset)
        tar.write(b"\xff" * 512)
    steps_of(pipeline, 12)
    assert set(pipeline.bad_counts) == {"tar member damaged"}


def read_all(data: SequentialData) -> list[Batch]:
    batches = list(data)
    assert len(batches) == len(data)
    return batches


def test_sequential_data_gives_every_sample_once(good_set: Path, specs: Specs) -> None:
    source = ("set", Manifest.open(good_set))
    batches = read_all(SequentialData([source], specs, batch_size=10, label=COLOURS))
    names = [name for batch in batches for name in batch["sample_id"]]
    assert sorted(names) == sorted(f"sample-{n}" for n in range(144))
    assert max(len(b["sample_id"]) for b in batches) == 10
    again = read_all(SequentialData([source], specs, batch_size=10, label=COLOURS, workers=1))
    assert_same(batches, again)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_sequential_ranks_step_together(good_set: Path, specs: Specs, world_size: int) -> None:
    source = ("set", Manifest.open(good_set))
    ranks = [
        read_all(SequentialData([source], specs, batch_size=7, rank=r, world_size=world_size))
        for r in range(world_size)
    ]
    for together in zip(*ranks, strict=True):
        assert len({tuple(batch["rows"]) for batch in together}) == 1
        assert len({len(batch["sample_id"]) for batch in together}) == 1
    names = [n for rank in ranks for batch in rank for n in batch["sample_id"]]
    assert set(names) == {f"sample-{n}" for n in range(144)}
    assert len(names) < 144 + 3 * world_size
    alone = {
        s["sample_id"]: s
        for b in read_all(SequentialData([source], specs, batch_size=7))
        for s in per_sample(b)
    }
    for sample in (s for rank in ranks for batch in rank for s in per_sample(batch)):
        assert_same(sample, alone[sample["sample_id"]])


def test_sequential_data_leaves_out_and_counts_bad_samples(tmp_path: Path, specs: Specs) -> None:
    bad: dict[int, Files] = {n: {"png": b"broken"} for n in (0, 1, 2, 50)}
    folder = write_set(tmp_path / "set", damaged(bad))
    data = SequentialData(
        [("set", Manifest.open(folder))],
        specs,
        batch_size=3,
        quarantine=tmp_path / "quarantine.jsonl",
    )
    batches = read_all(data)
    names = {name for batch in batches for name in batch["sample_id"]}
    assert names == {f"sample-{n}" for n in range(144)} - {f"sample-{n}" for n in bad}
    assert all(batch["sample_id"] for batch in batches)  # though a whole batch was bad
    assert data.bad_counts == {"image unreadable": 4}
    lines = [json.loads(x) for x in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert sorted(line["sample"] for line in lines) == sorted(f"sample-{n}" for n in bad)
    read_all(data)
    assert data.bad_counts == {"image unreadable": 4}  # of one pass


def test_sequential_data_counts_samples_that_the_model_can_not_use(
    good_set: Path, specs: Specs
) -> None:
    source = ("set", Manifest.open(good_set))
    data = SequentialData([source], {"image": specs["image"]}, batch_size=16)
    names = [name for batch in data for name in batch["sample_id"]]
    assert sorted(names) == sorted(f"sample-{n}" for n in range(96))
    assert data.bad_counts == {"no modality of the model": 48}
    with pytest.raises(ValueError, match="no sample in"):
        SequentialData([source], {"video": {}}, batch_size=16)


def test_sequential_data_uses_the_first_text(good_set: Path, specs: Specs) -> None:
    source = ("set", Manifest.open(good_set))
    first = {"text": specs["text"]}
    one, two = (read_all(SequentialData([source], first, batch_size=16)) for _ in range(2))
    assert_same(one, two)
    assert len({tuple(np.asarray(s["text"])) for b in one for s in per_sample(b)}) > 5


def test_sources_decide_who_enters_the_masked_view(good_set: Path, specs: Specs) -> None:
    """It changes neither which samples a step has nor anything else of them."""
    source = {"path": str(good_set), "splits": ["train"]}

    def pipeline(masked_view: bool) -> Pipeline:
        sources = {"all": source, "some": {**source, "masked_view": masked_view}}
        config = {"sources": sources, "global_batch_size": 48, "streams": 4, "workers": 0}
        config = from_dict(DataConfig, config)
        return Pipeline(config, specs, seed=1, rank=0, world_size=1)

    every, some = pipeline(True), pipeline(False)
    assert every.order.fingerprint == some.order.fingerprint
    first, second = steps_of(every, 1)[0][0], steps_of(some, 1)[0][0]
    draws = some.order.rank_draws(0, 0, 1)
    assert {draw.source for draw in draws} == {0, 1}
    assert second["masked_view"].tolist() == [draw.source == 0 for draw in draws]
    assert second["masked_view"].dtype == torch.bool
    assert first.pop("masked_view").all()
    second.pop("masked_view")
    assert_same(first, second)


def test_samples_know_their_stream(good_set: Path, specs: Specs) -> None:
    """A micro-batch holds all that its streams have in the step, whatever the ranks and workers."""
    found = []
    for world_size, size in ((1, 24), (1, 12), (2, 6)):
        seen = {}
        for rank in range(world_size):
            pipeline = make_pipeline(
                good_set, specs, rank=rank, world_size=world_size, micro_batch_size=size
            )
            assert pipeline.order.slots == 6
            for batch in steps_of(pipeline, 1)[0]:
                assert batch["stream"].dtype == torch.int64
                assert set(batch["stream"].bincount().tolist()) <= {0, 6}
                seen |= dict(
                    zip(batch["mask_seed"].tolist(), batch["stream"].tolist(), strict=True)
                )
        draws = [
            d for rank in range(world_size) for d in pipeline.order.rank_draws(0, rank, world_size)
        ]
        assert sorted(seen.values()) == sorted(d.stream for d in draws)
        found.append(seen)
    assert found[0] == found[1] == found[2]


def test_data_for_evaluation_is_of_one_stream(good_set: Path, specs: Specs) -> None:
    data = SequentialData([("set", Manifest.open(good_set))], specs, batch_size=16)
    assert not any(batch["stream"].any() for batch in read_all(data))
