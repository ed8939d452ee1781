"""What names tell of splits."""

from __future__ import annotations

import pytest

from mmfm_prep.sources._splits import split_of


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("captions_train2017.json", "train"),
        ("wnut17train.conll", "train"),
        ("eng.testa", "dev"),
        ("validation-00000-of-00001.parquet", "val"),
        ("emerging.test.annotated", "test"),
        ("Valid", "val"),
        ("trainer.csv", None),
        ("train_test.csv", None),
        ("shop.csv", None),
    ],
)
def test_split_of(name: str, split: str | None) -> None:
    assert split_of(name) == split
