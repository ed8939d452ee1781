"""A tokenizer of a dataset's texts, from what isn't held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmfm.data.tokenizer import load_tokenizer
from mmfm_prep.cli import main

LINES = """t,g,s
red chair,roter Stuhl,train
red table,roter Tisch,train
zyzzyva zyzzyva,Käfer,val
"""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    (tmp_path / "a.csv").write_text(LINES)
    words = ["make", "table", str(tmp_path / "a.csv"), str(tmp_path / "set")]
    assert main([*words, "texts.en=[t]", "texts.de=[g]", "split=s"]) == 0
    return tmp_path / "set"


def train(dataset: Path, name: str, *words: str) -> int:
    return main(["tokenizer", str(dataset), str(dataset.parent / name), "--vocab-size=300", *words])


def test_held_out_texts_are_not_seen(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(dataset, "tok") == 0
    said = capsys.readouterr().err
    assert "texts it was trained on:" in said
    assert "other splits:" in said
    tokenizer = load_tokenizer(dataset.parent / "tok")
    assert len(tokenizer.encode("red")) == 3  # one token between the special ones
    assert len(tokenizer.encode("zyzzyva")) > 6
    assert train(dataset, "all", "--splits", "train", "val") == 0
    assert len(load_tokenizer(dataset.parent / "all").encode("zyzzyva")) == 3


def test_languages(dataset: Path) -> None:
    assert train(dataset, "de", "--languages", "de") == 0
    tokenizer = load_tokenizer(dataset.parent / "de")
    assert len(tokenizer.encode("roter")) == 3
    assert len(tokenizer.encode("chair")) > 3


def test_the_same_texts_give_the_same(dataset: Path) -> None:
    assert train(dataset, "one") == 0
    assert train(dataset, "two") == 0
    one, two = ((dataset.parent / n / "tokenizer.json").read_bytes() for n in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--splits", "test"], "has no split 'test': train, val"),
        (["--languages", "fr"], "no texts in the splits train"),
        (["--vocab-size=10"], "needs at least 261"),
    ],
)
def test_refusals(
    dataset: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(dataset, "tok", *words) == 2
    assert message in capsys.readouterr().err
    assert not (dataset.parent / "tok").exists()


def test_a_folder_in_the_way_stays(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dataset.parent / "tok").mkdir()
    assert train(dataset, "tok") == 2
    assert "is already there" in capsys.readouterr().err
