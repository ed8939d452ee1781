"""Outputs of frozen encoders from disk: equal to live ones, and never those of another encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from mmfm.config import from_dict
from mmfm.data.manifest import Manifest
from mmfm.data.reader import SampleReader
from mmfm.data.sequential import SequentialData
from mmfm.data.tokenizer import train_bpe
from mmfm.data.transforms.text import Config as TextConfig
from mmfm.encoders.timm_model import TimmModel
from mmfm.feature_caching import fingerprint, open_caches
from mmfm.model import Model, ModelConfig
from tests import tiny
from tests.eval.tiny_checkpoint import make_data


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> list[tuple[str, Manifest]]:
    folder = make_data(tmp_path_factory.mktemp("caching") / "data")
    return [("s", Manifest.open(str(folder), ["val"]))]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    return tiny.make_tokenizer(tmp_path_factory.mktemp("caching") / "tokenizer")


def build(tokenizer: str, cached=("image", "text", "audio"), seed: int = 0, **image: Any) -> Model:
    settings = tiny.task_settings(tokenizer)["model"]
    for m in cached:
        settings["encoders"][m] |= {"frozen": True, "cache": True}
    settings["encoders"]["image"] |= image
    torch.manual_seed(seed)
    return from_dict(ModelConfig, settings).build().eval()


def batches(model: Model, sources, caches=None) -> list[dict[str, Any]]:
    return list(SequentialData(sources, model.specs, batch_size=5, cache=caches))


def test_cached_embeddings_equal_live_ones(tokenizer, sources, tmp_path: Path) -> None:
    model = build(tokenizer)
    caches = open_caches(model, sources, tmp_path, train=False)
    assert set(caches) == {"image", "text", "audio"}
    runs = []
    for encoder in model.encoders.values():
        encoder.register_forward_hook(lambda *_: runs.append(1))
    compared = 0
    with torch.no_grad():
        for live, cached in zip(
            batches(model, sources), batches(model, sources, caches), strict=True
        ):
            assert live["sample_id"] == cached["sample_id"]
            here = [m for m in model.encoders if m in live]
            one = model.fuse(model.encode(live, here), here)
            runs.clear()
            other = model.fuse(model.encode(cached, here), here)
            assert not runs  # no encoder ran
            for key, embedding in one.embedding.items():
                # Stored in fp16, which has 11 bits: of embeddings of length 1.
                torch.testing.assert_close(other.embedding[key], embedding, rtol=0, atol=2e-3)
                compared += len(embedding)
            for m in here:
                n = other.tokens[m].shape[1]
                assert torch.equal(other.valid[m], one.valid[m][:, :n])
                assert not one.valid[m][:, n:].any()
                real = other.valid[m]
                torch.testing.assert_close(
                    other.tokens[m][real], one.tokens[m][:, :n][real], rtol=1e-3, atol=2e-3
                )
    assert compared > 60


def test_a_second_opening_reads_and_encodes_nothing(
    tokenizer, sources, tmp_path: Path, monkeypatch
) -> None:
    model = build(tokenizer)
    first = {m: len(c) for m, c in open_caches(model, sources, tmp_path, train=True).items()}
    monkeypatch.setattr(SampleReader, "read", None)  # would be an error if it were called
    again = open_caches(build(tokenizer), sources, tmp_path, train=True)
    assert {m: len(c) for m, c in again.items()} == first
    cut = {"text": TextConfig(max_characters=1000)}  # decides about the contents, so all are read
    with pytest.raises(TypeError):
        open_caches(build(tokenizer, ["text"]), sources, tmp_path, transforms=cut, train=True)
    monkeypatch.undo()
    # Training may draw any of a sample's texts, evaluation always uses the first.
    fewer = open_caches(build(tokenizer, ["text"]), sources, tmp_path / "eval", train=False)
    assert 0 < len(fewer["text"]) < first["text"]


def test_only_encoders_that_ask_for_it_are_cached(tokenizer, sources, tmp_path: Path) -> None:
    assert set(open_caches(build(tokenizer, ["audio"]), sources, tmp_path, train=False)) == {
        "audio"
    }
    assert open_caches(build(tokenizer, []), sources, tmp_path, train=False) == {}


def test_the_fingerprint_is_that_of_weights_and_settings(tokenizer, tmp_path: Path) -> None:
    image = fingerprint(build(tokenizer).encoder("image"))
    assert fingerprint(build(tokenizer).encoder("image")) == image
    seen = {image}
    for model in (
        build(tokenizer, seed=1),
        build(tokenizer, heads=4),  # the same weights under another setting
        build(tokenizer, mean=[0.4, 0.5, 0.5]),
        build(tokenizer, interpolation="bilinear"),
    ):
        seen.add(fingerprint(model.encoder("image")))
    assert len(seen) == 5
    changed = build(tokenizer).encoder("image")
    weight = next(iter(changed.parameters()))
    with torch.no_grad():
        weight.view(-1)[-1] = torch.nextafter(weight.view(-1)[-1], torch.tensor(9.0))
    assert fingerprint(changed) not in seen


def test_the_fingerprint_covers_what_is_in_the_tokenizer(tmp_path: Path) -> None:
    """The same folder and number of words, other words."""
    folder = tmp_path / "tokenizer"
    found = []
    for words in (["abab abc abd"], ["xyxy xyz xyw"]):
        train_bpe(words, vocab_size=264, folder=folder)
        found.append(build(str(folder)).encoder("text"))
    one, other = found
    assert one.spec == other.spec
    assert all(torch.equal(w, other.state_dict()[n]) for n, w in one.state_dict().items())
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(other) == fingerprint(build(str(folder)).encoder("text"))


def test_encoders_with_batch_norm_have_a_fingerprint(tokenizer, tmp_path: Path) -> None:
    """Its count of batches is a number without dimensions."""
    network = timm.create_model("resnet10t", pretrained=False, num_classes=0)
    assert any(t.ndim == 0 for t in network.state_dict().values())
    settings = tiny.task_settings(tokenizer)["model"]
    settings["encoders"] = {
        "image": {"type": "timm_model", "name": "resnet10t", "pretrained": False, "frozen": True}
    }
    settings["fusion"] = None
    torch.manual_seed(0)
    encoder = from_dict(ModelConfig, settings).build().encoder("image")
    assert fingerprint(encoder) == fingerprint(encoder)


def test_the_cache_is_filled_with_batch_norms_folded(
    tokenizer, sources, tmp_path: Path, monkeypatch
) -> None:
    """Also where the encoder takes a batch in parts, so that its layers run more than once."""
    settings = tiny.task_settings(tokenizer)["model"]
    image = {"type": "timm_model", "name": "test_efficientnet", "image_size": 64}
    settings["encoders"]["image"] = {**image, "frozen": True, "cache": True}
    model = from_dict(ModelConfig, settings).build().eval()
    runs: list[int] = []
    encode = TimmModel.encode

    def counted(self: TimmModel, inputs: Any, *others: Any) -> Any:
        runs.append(sum(isinstance(m, nn.BatchNorm2d) for m in self.modules()))
        return encode(self, inputs, *others)

    with_norms = sum(isinstance(m, nn.BatchNorm2d) for m in model.encoder("image").modules())
    monkeypatch.setattr(TimmModel, "encode", counted)
    open_caches(model, sources, tmp_path, train=False)
    assert with_norms > 0
    assert runs[0] == with_norms  # to find the pairs, the network as it is
    assert runs[-1] < with_norms / 2
