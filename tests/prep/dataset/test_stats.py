"""Numbers to set a recipe by, against the samples themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmfm.data.tokenizer import load_tokenizer
from mmfm_prep.cli import main
from tests.data.make_shards import encoded, encoded_sound
from tests.prep.dataset.test_verify import tar_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures half red, half blue; sounds of one to four tenths of a second at level 0.25."""
    folder = tmp_path_factory.mktemp("stats")
    samples = {}
    for i in range(4):
        picture = Image.new("RGB", (20 + i, 10), (255, 0, 0))
        picture.paste((0, 0, 255), (0, 0, 20 + i, 5))
        wave = np.where(np.arange(1600 * (i + 1)) % 2, 0.25, -0.25).astype(np.float32)
        about = {"texts": {"en": ["word " * (i + 1)]}, "labels": {"kind": "ab"[i // 3]}}
        samples[f"{i}"] = {
            "png": encoded(picture),
            "wav": encoded_sound(wave, 16000, "WAV"),
            "json": json.dumps(about).encode(),
        }
    samples["4"] = {"png": samples["0"]["png"][:60], "json": b"{}"}
    tar_of(folder / "a.tar", samples)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    out = tmp_path_factory.mktemp("numbers")
    assert main(["tokenizer", str(folder), str(out / "tok"), "--vocab-size", "270"]) == 0
    words = ["--size", "10", "--tokenizer", str(out / "tok"), "--json", str(out / "a.json")]
    assert main(["stats", str(folder), *words]) == 0
    return json.loads((out / "a.json").read_text())


def test_percentiles(found: dict) -> None:
    split = found["splits"]["all"]
    assert split["samples"] == 5
    assert split["seconds"]["0 %"] == 0.1
    assert split["seconds"]["50 %"] == 0.25
    assert split["seconds"]["100 %"] == 0.4
    assert split["shorter side, pixels"]["100 %"] == 10
    assert split["longer by shorter side"]["0 %"] == 2.0
    assert split["level, dB"]["50 %"] == pytest.approx(20 * np.log10(0.25), abs=1e-3)
    assert split["sample rates"] == {"16000": 4}
    assert split["not decoded"] == {"image unreadable": 1}


def test_pixels(found: dict) -> None:
    """The upper half is blue, the lower red: half of the time 1, half 0."""
    split = found["splits"]["all"]
    assert split["mean"] == pytest.approx([0.5, 0, 0.5], abs=0.01)
    assert split["std"] == pytest.approx([0.5, 0, 0.5], abs=0.02)  # the border is blurred


def test_labels_and_tokens(found: dict) -> None:
    assert found["labels"] == {"kind": {"majority": 0.75, "names": {"a": 3, "b": 1}}}
    tokens = found["splits"]["all"]["tokens"]
    tokenizer = load_tokenizer(found["tokenizer"])
    assert tokens["100 %"] == len(tokenizer.encode("word " * 4))
    assert tokens["0 %"] == len(tokenizer.encode("word "))


def test_suggestions_reach_nearly_all(
    folder: Path, found: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stats", str(folder), "--tokenizer", found["tokenizer"]]) == 0
    out = capsys.readouterr().out
    longest = int(np.ceil(found["splits"]["all"]["tokens"]["99 %"]))
    assert f"model.encoders.text.max_length={longest}" in out
    assert "model.encoders.audio.max_seconds=0.4" in out
    assert "label kind: 2 names, the commonest 75.0%" in out


def test_refusals(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", str(tmp_path)]) == 2
    assert main(["stats", str(folder), "--tokenizer", str(tmp_path / "gone")]) == 2
    assert main(["stats", str(folder), "--size", "0"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line]
    assert [line.startswith("mmfm data: ") for line in errors] == [True] * 3
