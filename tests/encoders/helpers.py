"""Small encoders and inputs of each modality, without network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmfm.config import Component, component
from mmfm.data.tokenizer import train_bpe
from mmfm.encoders.base import Encoder

TEXTS = ("a red dot", "two blue boxes and a green bar", "the sound of a bell")


def config(**settings: Any) -> Any:
    return component(settings, Component("mmfm.encoders"), "model.encoders.x")


def build(**settings: Any) -> Encoder:
    """An encoder in evaluation mode with weights large enough that mistakes show."""
    torch.manual_seed(0)
    encoder: Encoder = config(**settings).build().eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    return encoder


def tokenizer(folder: Path) -> str:
    train_bpe(TEXTS, vocab_size=280, folder=folder)
    return str(folder)


def lengths_mask(lengths: list[int], longest: int | None = None) -> Tensor:
    """[B,L] bool: True for the first `lengths[i]` places of row i."""
    return torch.arange(longest or max(lengths))[None] < torch.tensor(lengths)[:, None]


def assert_close(actual: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)
