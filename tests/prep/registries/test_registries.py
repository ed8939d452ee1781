"""The sources that fetch from registries, for real: ``pytest -m slow tests/prep``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmfm_prep.cli import main
from tests.prep.reading import read_samples

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_emoji(cache: Path, tmp_path: Path) -> None:
    options = ["styles=[noto, openmoji-black]", "held_out_styles=[openmoji-black]", "words=20"]
    options += ["voices=[en-us+m1, en+f4]", "held_out_voices=[en+f4]", "image_size=32"]
    assert main(["make", "emoji", str(tmp_path / "set"), f"cache={cache}", *options]) == 0
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    concepts = manifest["notes"]["concepts"]
    samples = {s["split"]: 0 for s in manifest["shards"]}
    for shard in manifest["shards"]:
        samples[shard["split"]] += shard["samples"]
    assert concepts > 1200
    assert samples["pictures-noto"] == concepts
    assert samples["voices-en-us-m1"] == samples["pairs-train"] == samples["pairs-test"] == 20
    assert len(manifest["labels"]["category"]) == 8
    for leaks in manifest["leaks"].values():
        for kind in ("image", "audio"):
            assert leaks.get(kind, {"same_group": 0, "other_group": 0})["same_group"] == 0


def test_stamps(cache: Path, tmp_path: Path) -> None:
    options = [f"cache={cache}", "speech=[fr]", "languages=[en, fr]", "image_size=32"]
    assert main(["make", "stamps", str(tmp_path / "set"), *options]) == 0
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    spoken: Counter[str] = Counter()
    for shard in manifest["shards"]:
        for _, files in read_samples(tmp_path / "set" / shard["name"]):
            meta = json.loads(files["json"])
            spoken[meta.get("language", "none")] += 1
            if meta.get("language") == "fr":
                assert next(iter(meta["texts"])) == "fr"
    assert 600 < spoken["fr"] < 928
    assert spoken["none"] > 900
    for leaks in manifest["leaks"].values():
        for counts in leaks.values():
            assert counts["same_group"] == counts["other_group"] == 0


def test_efficientnet_sees(cache: Path, tmp_path: Path) -> None:
    import timm

    out = tmp_path / "weights"
    assert main(["weights", "efficientnet-lite0", str(out), "--cache", str(cache)]) == 0
    config = json.loads((out / "config.json").read_text())
    model = timm.create_model(config["architecture"]).eval()
    model.load_state_dict(load_file(out / "model.safetensors"))
    # A network with the wrong tensors in its batch norms gives nearly the same logits for anything.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        logits = model(torch.rand(4, 3, 224, 224, generator=generator) * 2 - 1)
        flat = model(torch.zeros(1, 3, 224, 224))
    assert torch.isfinite(logits).all()
    assert 1 < logits.std() < 10
    assert (logits - flat).abs().mean() > 0.3


def test_minilm_tells_meaning(cache: Path, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    out = tmp_path / "weights"
    assert main(["weights", "minilm", str(out), "--cache", str(cache)]) == 0
    model = AutoModel.from_pretrained(out).eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    inputs = tokenizer(["a cat", "a kitten", "tax law"], return_tensors="pt", padding=True)
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    mean = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    assert mean[0] @ mean[1] > 0.6 > 0.3 > mean[0] @ mean[2]
