"""The feature cache: what comes out is what a direct run of the encoder gives."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmfm.config import from_dict
from mmfm.data import feature_cache
from mmfm.data.cache_build import BuildReport, build_cache
from mmfm.data.feature_cache import CachedOutput, CacheWriter, FeatureCache
from mmfm.data.manifest import Manifest
from mmfm.data.pipeline import DataConfig, Pipeline
from mmfm.data.sequential import SequentialData
from mmfm.data.subset import SubsetConfig, subset_of
from mmfm.data.transforms import audio, image, text
from mmfm.data.transforms.base import BadSample
from tests.data.make_shards import Files, captions, tri_modal_shards, write_set

Specs = dict[str, dict[str, Any]]
MODULES = {"image": image, "text": text, "audio": audio}


def encode(modality: str, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None, Tensor]:
    """A frozen encoder in miniature; its outputs don't depend on the other rows of a batch."""
    values = inputs[modality].float()
    if modality == "image":
        tokens = values.flatten(1).unflatten(1, (-1, 4))
        return tokens, None, tokens.mean(dim=1)
    mask = inputs[f"{modality}_mask"]
    tokens = torch.stack([values.sin(), values.cos(), values], dim=-1)
    return tokens, mask, (tokens * mask[..., None]).sum(dim=1)[:, :2]


def output(seed: int, length: int = 5) -> CachedOutput:
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(length, 4)).astype(np.float32)
    return CachedOutput(tokens, rng.random(length) < 0.8, rng.normal(size=3).astype(np.float32))


def fill(
    cache: FeatureCache, data: Path, specs: Specs, modality: str = "text", **options: Any
) -> BuildReport:
    transform = MODULES[modality].Config().build(specs[modality])
    sources = [("set", Manifest.open(data))]
    return build_cache(
        cache, sources, modality, transform, lambda i: encode(modality, i), **options
    )


def built(folder: Path, data: Path, specs: Specs, modality: str, **options: Any) -> FeatureCache:
    cache = FeatureCache(folder, f"toy {modality}", "float32")
    fill(cache, data, specs, modality, **options)
    return cache


def make_pipeline(data: Path, specs: Specs, workers: int = 0, **arguments: Any) -> Pipeline:
    sources = {"set": {"path": str(data)}}
    raw = {"sources": sources, "global_batch_size": 24, "streams": 4, "workers": workers}
    config = from_dict(DataConfig, raw | arguments.pop("config", {}))
    return Pipeline(config, specs, seed=1, rank=0, world_size=1, **arguments)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_was_added_can_be_read(tmp_path: Path, dtype: Any) -> None:
    cache = FeatureCache(tmp_path, "encoder", dtype)
    with cache.writer() as writer:
        for seed in range(20):
            writer.add(b"content %d" % seed, output(seed, seed))
    cache.refresh()
    copy = pickle.loads(pickle.dumps(cache))
    for seed in range(20):
        got, wanted = copy.get(b"content %d" % seed), output(seed, seed)
        assert (got.tokens == wanted.tokens.astype(dtype)).all()
        assert (got.mask == wanted.mask).all()
        assert (got.pooled == wanted.pooled.astype(dtype)).all()
    assert len(cache) == 20
    assert b"content 3" in cache
    assert b"content 99" not in cache


def test_entries_belong_to_one_encoder(tmp_path: Path) -> None:
    with FeatureCache(tmp_path, "encoder").writer() as writer:
        writer.add(b"content", output(1))
    assert b"content" in FeatureCache(tmp_path, "encoder")
    assert b"content" not in FeatureCache(tmp_path, "another")
    with pytest.raises(ValueError, match=r"0 entries.*build it again"):
        FeatureCache(tmp_path, "another").get(b"content")


def test_parts_are_whole_or_not_there(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "encoder")
    writer = CacheWriter(cache, 0, part_bytes=100)

    def build() -> None:
        with writer:
            for seed in range(7):  # a part after every third: 3 · 5 tokens of 4 float16
                writer.add(b"%d" % seed, output(seed))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build()
    assert len(cache) == 6
    names = sorted(p.name for p in cache.folder.iterdir())
    assert [name[:10] for name in names] == ["part-00000"] * 2
    assert [name[-7:] for name in names] == ["-000000", "-000001"]
    with cache.writer() as again:  # goes on, and other ranks write beside it
        again.add(b"6", output(6))
        with cache.writer(rank=1) as other:
            other.add(b"7", output(7))
        with cache.writer() as same_rank_of_another_run:
            same_rank_of_another_run.add(b"8", output(8))
    cache.refresh()
    assert all(b"%d" % seed in cache for seed in range(9))


def test_a_killed_build_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "encoder")
    killed = cache.writer()
    killed.__enter__()
    killed.add(b"1", output(1))  # and never leaves
    assert b"1" not in cache
    with cache.writer() as writer:
        writer.add(b"2", output(2))
    cache.refresh()
    assert (b"1" in cache, b"2" in cache) == (False, True)


def test_a_cut_file_is_an_error(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "encoder")
    with cache.writer() as writer:
        writer.add(b"1", output(1))
    path = next(cache.folder.glob("part-*/tokens.bin"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"tokens\.bin has 39 bytes, not 40"):
        cache.get(b"1")


def test_values_beyond_float16_are_refused(tmp_path: Path) -> None:
    large = output(1)._replace(pooled=np.full(3, 1e6, np.float32))
    with (
        pytest.raises(ValueError, match="not finite in float16"),
        FeatureCache(tmp_path, "encoder").writer() as writer,
        np.errstate(over="ignore"),
    ):
        writer.add(b"1", large)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("modality", ["image", "text", "audio"])
def test_training_reads_what_the_encoder_gives(
    tmp_path: Path, good_set: Path, specs: Specs, modality: str, workers: int
) -> None:
    cache = built(tmp_path, good_set, specs, modality, batch_size=7)
    cached = make_pipeline(good_set, specs, workers, cache={modality: cache})
    plain = make_pipeline(good_set, specs)
    for (batch,), (direct,) in itertools.islice(zip(cached, plain, strict=True), 3):
        assert batch["sample_id"] == direct["sample_id"]
        assert batch["rows"][modality].tolist() == direct["rows"][modality].tolist()
        tokens, mask, pooled = encode(modality, direct)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool) if mask is None else mask
        # A batch's padding isn't kept (100 ms for sound), so compare what is valid.
        stored = batch[f"{modality}_tokens_mask"]
        length = stored.shape[1]
        assert torch.equal(stored, mask[:, :length])
        assert not mask[:, length:].any()
        valid = batch[f"{modality}_tokens"][stored]
        assert torch.equal(valid, tokens[mask])
        torch.testing.assert_close(batch[f"{modality}_pooled"], pooled, rtol=1e-5, atol=1e-5)
        assert (modality in batch) == (modality == "text")  # cheap, so given all the same
        for other in set(specs) - {modality}:
            assert torch.equal(batch[other], direct[other])


def test_raw_inputs_on_request(tmp_path: Path, good_set: Path, specs: Specs) -> None:
    cache = built(tmp_path, good_set, specs, "image")
    pipeline = make_pipeline(good_set, specs, cache={"image": cache}, raw={"image"})
    (batch,) = next(iter(pipeline))
    (direct,) = next(iter(make_pipeline(good_set, specs)))
    assert torch.equal(batch["image"], direct["image"])
    assert "image_tokens" in batch


def test_every_text_is_cached(tmp_path: Path, good_set: Path, specs: Specs) -> None:
    cache = built(tmp_path, good_set, specs, "text")
    for number in range(144):
        assert all(caption.encode() in cache for caption in captions(number))
    assert len(cache) == len({c for n in range(144) for c in captions(n)})


def test_ranks_share_the_work_and_a_second_build_does_none(
    tmp_path: Path, good_set: Path, specs: Specs
) -> None:
    sources = [("set", Manifest.open(good_set))]
    transform = image.Config().build(specs["image"])
    cache = FeatureCache(tmp_path, "toy", "float32")
    calls: list[int] = []

    def counted(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None, Tensor]:
        calls.append(len(inputs["image"]))
        return encode("image", inputs)

    for rank in range(2):
        report = build_cache(
            cache, sources, "image", transform, counted, batch_size=16, rank=rank, world_size=2
        )
        assert (report.encoded, report.present, report.bad) == (48, 0, {})
    assert sum(calls) == len(cache) == 96
    report = build_cache(cache, sources, "image", transform, counted)
    assert (report.encoded, report.present) == (0, 96)
    assert sum(calls) == 96


def test_a_shard_in_several_sources_is_read_once(tmp_path: Path, specs: Specs) -> None:
    """Sources that differ in their weights, or leave out a modality, hold the same contents."""
    data = write_set(tmp_path / "set", tri_modal_shards(("image+text",)))
    sources = [
        ("texts", Manifest.open(data, modalities=["text"])),
        ("often", Manifest.open(data)),
        ("rarely", Manifest.open(data)),
    ]
    transform = image.Config().build(specs["image"])
    cache = FeatureCache(tmp_path / "cache", "toy", "float32")
    done: list[tuple[int, int]] = []
    report = build_cache(
        cache,
        sources,
        "image",
        transform,
        lambda i: encode("image", i),
        progress=lambda *counts: done.append(counts),
    )
    assert (report.encoded, report.present) == (48, 0)
    assert done[-1] == (48, 48)


def test_parts_of_a_shard_are_encoded_alone(tmp_path: Path, specs: Specs) -> None:
    """What a fold trains on, what it holds out, and then the whole, of which nothing is known."""
    data = write_set(tmp_path / "set", tri_modal_shards(("image+text",), size=12))
    fold = {"folds": 3, "fold": 1}
    parts = [
        (part, subset_of(Manifest.open(data), SubsetConfig(part=part, **fold)))
        for part in ("train", "held_out")
    ]
    transform = image.Config().build(specs["image"])
    cache = FeatureCache(tmp_path / "cache", "toy", "float32")

    def add(sources: list[tuple[str, Manifest]]) -> BuildReport:
        run = partial(encode, "image")
        return build_cache(cache, sources, "image", transform, run, settings="any")

    assert add(parts[1:]).encoded == 8
    report = add(parts)
    assert (report.encoded, report.present, report.shards_known) == (16, 8, 0)
    report = add([("whole", Manifest.open(data))])
    assert (report.encoded, report.present, report.shards_known) == (0, 24, 0)
    assert add(parts).shards_known == 4


def test_a_shard_that_is_in_the_cache_is_not_read_again(tmp_path: Path, specs: Specs) -> None:
    data = write_set(tmp_path / "set", tri_modal_shards(("image+text",)))
    shards = len(Manifest.open(data).shards)
    cache = FeatureCache(tmp_path / "cache", "toy")
    first = fill(cache, data, specs, settings="any")
    assert (first.shards_known, first.encoded > 0) == (0, True)
    tars = {path: path.read_bytes() for path in data.glob("*.tar")}
    for path, content in tars.items():  # reading would fail
        path.write_bytes(b"x" * len(content))
    for train in (True, False):  # what training draws from holds what evaluation uses
        again = fill(cache, data, specs, settings="any", train=train)
        assert (again.shards_known, again.encoded, again.present) == (shards, 0, 0)
    for path, content in tars.items():
        path.write_bytes(content)
    other = fill(cache, data, specs, settings="other")
    assert (other.shards_known, other.encoded, other.present) == (0, 0, first.encoded)
    assert fill(cache, data, specs).shards_known == 0  # unknown settings
    assert fill(FeatureCache(tmp_path / "cache", "toy 2"), data, specs, settings="any").encoded


def test_what_evaluation_uses_is_not_all_that_training_needs(tmp_path: Path, specs: Specs) -> None:
    data = write_set(tmp_path / "set", tri_modal_shards(("image+text",)))
    cache = FeatureCache(tmp_path / "cache", "toy")
    few = fill(cache, data, specs, settings="any", train=False)
    assert fill(cache, data, specs, settings="any", train=False).shards_known > 0
    rest = fill(cache, data, specs, settings="any")
    assert (rest.shards_known, rest.present) == (0, few.encoded)
    assert rest.encoded > 0


def test_a_shard_is_known_when_every_rank_has_added_its_share(tmp_path: Path, specs: Specs) -> None:
    data = write_set(tmp_path / "set", tri_modal_shards(("image+text",)))
    cache = FeatureCache(tmp_path / "cache", "toy")
    fill(cache, data, specs, settings="any", rank=0, world_size=2)
    assert fill(cache, data, specs, settings="any", rank=2, world_size=3).shards_known == 0
    assert fill(cache, data, specs, settings="any", rank=1, world_size=2).shards_known == 0
    assert fill(cache, data, specs, settings="any").shards_known > 0


def test_a_shard_with_a_bad_sample_is_read_and_counted_again(tmp_path: Path, specs: Specs) -> None:
    shards = tri_modal_shards(("image+text",))
    shards[0][3] = (shards[0][3][0], shards[0][3][1] | {"png": b"broken"})
    data = write_set(tmp_path / "set", shards)
    cache = FeatureCache(tmp_path / "cache", "toy", "float32")
    first = fill(cache, data, specs, "image", settings="any")
    again = fill(cache, data, specs, "image", settings="any")
    assert first.bad == again.bad == {"image unreadable": 1}
    assert again.shards_known == len(Manifest.open(data).shards) - 1


def test_a_bad_sample_is_counted_however_many_shards_are_known(
    tmp_path: Path, specs: Specs
) -> None:
    """Its number among the samples that are read, so the rank that counts it, changes then."""
    shards = tri_modal_shards(("image+text",))
    shards[0] = shards[0][:3]  # so the bad one is odd among all, and even in its own shard
    shards[1][2] = (shards[1][2][0], shards[1][2][1] | {"png": b""})
    data = write_set(tmp_path / "set", shards)
    cache = FeatureCache(tmp_path / "cache", "toy", "float32")
    for _ in range(4):
        reports = [
            fill(cache, data, specs, "image", settings="any", rank=rank, world_size=2)
            for rank in range(2)
        ]
        assert sum((r.bad for r in reports), Counter()) == {"empty image file": 1}


def test_a_bad_content_of_two_shards_leaves_both_to_be_read(tmp_path: Path, specs: Specs) -> None:
    shards = tri_modal_shards(("image+text",))
    for shard in shards[:2]:
        shard[3] = (shard[3][0], shard[3][1] | {"png": b"broken"})
    data = write_set(tmp_path / "set", shards)
    cache = FeatureCache(tmp_path / "cache", "toy", "float32")
    fill(cache, data, specs, "image", settings="any")
    again = fill(cache, data, specs, "image", settings="any")
    assert again.shards_known == len(shards) - 2


def test_bad_samples_are_counted_in_the_build(tmp_path: Path, specs: Specs) -> None:
    shards = tri_modal_shards(("image+text",))
    bad: Files = {"png": b"broken"}
    shards[0][3] = (shards[0][3][0], shards[0][3][1] | bad)
    data = write_set(tmp_path / "set", shards)
    transform = image.Config().build(specs["image"])
    cache = FeatureCache(tmp_path / "cache", "toy", "float32")
    sources = [("set", Manifest.open(data))]
    report = build_cache(cache, sources, "image", transform, lambda i: encode("image", i))
    assert report.bad == {"image unreadable": 1}
    assert report.encoded == 47


def test_a_bad_sample_behind_a_cache_is_replaced(tmp_path: Path, specs: Specs) -> None:
    """What can't be decoded is not in the cache: a bad sample, not a cache to build again."""
    shards = tri_modal_shards(("image+text",))
    bad: Files = {"png": b"broken"}
    shards[0][3] = (shards[0][3][0], shards[0][3][1] | bad)
    data = write_set(tmp_path / "set", shards)
    caches = {"image": built(tmp_path / "cache", data, specs, "image")}
    pipeline = make_pipeline(data, specs, cache=caches)
    batches = [batch for (batch,) in itertools.islice(pipeline, 4)]  # each sample once or twice
    assert all(len(batch["image_tokens"]) == 24 for batch in batches)
    assert set(pipeline.bad_counts) == {"image unreadable"}
    evaluation = SequentialData([("set", Manifest.open(data))], specs, batch_size=16, cache=caches)
    assert sum(len(batch["sample_id"]) for batch in evaluation) == 47
    assert evaluation.bad_counts == {"image unreadable": 1}


def test_a_bad_content_costs_that_content_only(tmp_path: Path, specs: Specs, monkeypatch) -> None:
    data = write_set(tmp_path / "set", tri_modal_shards(("image+text",)))
    transform = text.Config().build(specs["text"])
    sources = [("set", Manifest.open(data))]
    whole = build_cache(
        FeatureCache(tmp_path / "a", "toy"), sources, "text", transform, lambda i: encode("text", i)
    )
    decode, first = transform.decode_content, []

    def one_is_bad(content: bytes, *more: Any) -> Any:
        first.append(content)
        if content == first[0]:
            raise BadSample("text has no tokens")
        return decode(content, *more)

    monkeypatch.setattr(transform, "decode_content", one_is_bad)
    report = build_cache(
        FeatureCache(tmp_path / "b", "toy"), sources, "text", transform, lambda i: encode("text", i)
    )
    assert (report.encoded, report.bad) == (whole.encoded - 1, {"text has no tokens": 1})


def test_a_missing_entry_says_to_build_again(tmp_path: Path, good_set: Path, specs: Specs) -> None:
    empty = FeatureCache(tmp_path, "toy")
    with pytest.raises(ValueError, match="build it again"):
        next(iter(make_pipeline(good_set, specs, cache={"image": empty})))


def test_a_cached_modality_can_not_be_augmented(
    tmp_path: Path, good_set: Path, specs: Specs
) -> None:
    augmented = {"transforms": {"image": {"type": "image", "flip": 0.5}}}
    cache = FeatureCache(tmp_path, "toy")
    with pytest.raises(ValueError, match=r"data\.transforms\.image augments"):
        make_pipeline(good_set, specs, cache={"image": cache}, config=augmented)
    with pytest.raises(ValueError, match="feature cache for 'video'"):
        make_pipeline(good_set, specs, cache={"video": cache})


def test_evaluation_reads_the_cache_too(tmp_path: Path, good_set: Path, specs: Specs) -> None:
    cache = built(tmp_path, good_set, specs, "image")
    sources = [("set", Manifest.open(good_set))]
    cached = SequentialData(sources, specs, batch_size=16, cache={"image": cache})
    plain = SequentialData(sources, specs, batch_size=16)
    for batch, direct in zip(cached, plain, strict=True):
        assert batch["sample_id"] == direct["sample_id"]
        if "image" in direct["rows"]:
            tokens, _, pooled = encode("image", direct)
            assert torch.equal(batch["image_tokens"], tokens)
            torch.testing.assert_close(batch["image_pooled"], pooled)


def test_a_content_in_two_parts_is_read_from_the_first(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "encoder", "float32")
    for rank in (1, 0):
        with cache.writer(rank) as writer:
            writer.add(b"same", output(rank))
    assert (cache.get(b"same").tokens == output(0).tokens).all()
    assert feature_cache._FORMAT == 1
