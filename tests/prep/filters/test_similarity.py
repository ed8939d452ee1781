"""Samples whose parts a model finds apart are left out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import mmfm
from mmfm_prep.cli import main
from mmfm_prep.filters.similarity import Similarity
from mmfm_prep.sample import Sample
from tests.eval.tiny_checkpoint import make_checkpoint
from tests.prep.making.test_media import TONE, clip, encoded, noise
from tests.prep.sources.test_files import dataset


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


def sample(number: int, **has) -> Sample:
    return Sample(key=str(number), id=str(number), group=str(number), split="train", **has)


def test_cosines_are_those_of_the_predictor(checkpoint: Path) -> None:
    pictures = [encoded(noise(30 + i, 30), "PNG") for i in range(5)]
    texts = ["red", "two blue stars", "green circle", "three", "a"]
    samples = [
        sample(i, image=p, texts={"en": [t, "other"]})
        for i, (p, t) in enumerate(zip(pictures, texts, strict=True))
    ]
    samples.insert(2, sample(9, texts={"en": ["no picture"]}))
    found = Similarity(checkpoint=str(checkpoint)).of(samples)
    assert found.pop(2) is None
    embedded = mmfm.load(checkpoint).encode(image=pictures, text=texts)
    expected = (embedded["image"] * embedded["text"]).sum(-1)
    torch.testing.assert_close(torch.tensor(found), expected.cpu(), atol=5.1e-5, rtol=0)


SOUNDS = [clip(TONE), b"x"]


def test_what_the_model_can_not_read_has_a_reason(checkpoint: Path) -> None:
    samples = [sample(i, audio=audio, texts={"en": ["a"]}) for i, audio in enumerate(SOUNDS)]
    one, other = Similarity(checkpoint=str(checkpoint), pair=("audio", "text")).of(samples)
    assert isinstance(one, float)
    assert other == "audio unreadable"


def test_samples_below_the_least_are_left_out(tmp_path: Path, checkpoint: Path) -> None:
    lines = ["p,t"]
    for i in range(8):
        (tmp_path / f"{i}.png").write_bytes(encoded(noise(20 + i, 20), "PNG"))
        lines.append(f"{i}.png,{i} red blue")
    (tmp_path / "a.csv").write_text("\n".join(lines))
    words = ["make", "table", str(tmp_path / "a.csv"), "image=p", "texts.en=[t]"]
    words.append(f"filters.similarity.checkpoint={checkpoint}")
    assert main([*words, str(tmp_path / "all")]) == 0
    cosines = {name: f["similarity"] for name, f in dataset(tmp_path / "all")[1].items()}
    assert len(cosines) == 8
    least = sorted(cosines.values())[4]
    assert main([*words, str(tmp_path / "some"), f"filters.similarity.min={least}"]) == 0
    manifest, found = dataset(tmp_path / "some")
    assert set(found) == {name for name, cosine in cosines.items() if cosine >= least}
    (reason,) = manifest["notes"]["left_out"]
    assert reason == f"image and text less similar than {least:g}"


def test_a_checkpoint_that_is_none_is_one_line(tmp_path: Path, capsys) -> None:
    (tmp_path / "a.csv").write_text("p,t\na.png,a\n")
    (tmp_path / "a.png").write_bytes(encoded(noise(9, 9), "PNG"))
    words = ["make", "table", str(tmp_path / "a.csv"), str(tmp_path / "out"), "image=p"]
    assert main([*words, "texts.en=[t]", "filters.similarity.checkpoint=gone"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mmfm data: filters.similarity.checkpoint gone: there is no checkpoint")


def test_refused_settings() -> None:
    for settings in ({"min": 1.5}, {"pair": ("image", "image")}, {"pair": ("image", "video")}):
        with pytest.raises(ValueError, match=r"min|pair"):
            Similarity(**settings)


def test_another_model_at_the_same_place_is_noticed(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(checkpoint, tmp_path / "model")
    (tmp_path / "a.csv").write_text("t\nred\n")
    words = ["make", "table", str(tmp_path / "a.csv"), str(tmp_path / "out"), "texts.en=[t]"]
    words.append(f"filters.similarity.checkpoint={tmp_path / 'model'}")
    assert main(words) == main(words) == 0
    shutil.rmtree(tmp_path / "model")
    make_checkpoint(tmp_path / "model", seed=1)
    assert main(words) == 2
    assert "changed since" in capsys.readouterr().err
