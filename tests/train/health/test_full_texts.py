"""Texts as long as the encoder takes are told once."""

from __future__ import annotations

import torch

from mmfm.train.health.full_texts import FEWEST, FullTexts

SPECS = {"text": {"tokenizer": "x", "max_length": 4}, "history": {"max_length": 2}}


def batch(lengths: list[int]) -> dict:
    mask = torch.arange(4)[None, :] < torch.tensor(lengths)[:, None]
    return {"text_mask": mask, "history_mask": torch.ones(len(lengths), 2, dtype=torch.bool)}


def test_full_texts_are_told_once_and_their_share() -> None:
    texts = FullTexts(SPECS)
    texts.add([batch([4, 1]), batch([4, 2])])
    assert list(texts.warnings()) == []  # too few to say
    texts.add([batch([3] * (FEWEST - 4))])
    (said,) = texts.warnings()
    assert said.startswith("2 % of the texts fill the encoder's input")
    assert "model.encoders.text.max_length = 4" in said
    texts.add([batch([4] * 50)])
    assert list(texts.warnings()) == []


def test_few_full_texts_and_windows_are_no_matter() -> None:
    texts = FullTexts(SPECS)
    texts.add([batch([4] + [3] * 299)])
    assert list(texts.warnings()) == []
    windows = FullTexts({"text": {**SPECS["text"], "tags": {}}})
    windows.add([batch([4] * FEWEST)])
    assert list(windows.warnings()) == []
