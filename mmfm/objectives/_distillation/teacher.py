"""A frozen model that another one learns from: a checkpoint of mmfm, or an encoder by its settings.

It is no part of the task: not trained, not saved, not cut up by ZeRO.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mmfm.checkpoint import Checkpoint
from mmfm.config import Component, component, from_dict
from mmfm.encoders.base import Encoder
from mmfm.model import Model, ModelConfig
from mmfm.objectives.base import ReadFeatures
from mmfm.types import Batch, Read
from mmfm.weights import load_model

Source = str | dict[str, Any]
"""A checkpoint's folder, or an encoder's settings as below ``model.encoders``."""

_opened: WeakKeyDictionary[Model, dict[str, Model]] = WeakKeyDictionary()
"""Student ▶ its teachers: objectives with the same one share it."""


class Teacher:
    """`model` embeds what the `reads` name, from the inputs that the data pipeline makes for the
    `student`.

    Raises:
        ValueError: if it can't be opened whole, lacks a modality, or needs other inputs.
    """

    def __init__(self, source: Source, reads: Sequence[Read], student: Model) -> None:
        modalities = tuple(dict.fromkeys(m for read in reads for m in read.modalities))
        try:
            # The student's own weights are drawn as they were without a teacher.
            with torch.random.fork_rng(devices=[]):
                self.model = _shared(source, modalities, student)
            for modality in modalities:
                _check_inputs(modality, self.model.encoder(modality), student.encoder(modality))
            if any(read.fused for read in reads) and self.model.fusion is None:
                raise ValueError("it has no fusion, and so no embedding of several modalities")
        except ValueError as error:
            where = source if isinstance(source, str) else source.get("type")
            raise ValueError(f"teacher {where}: {error}") from None
        self.model.eval().requires_grad_(False)
        for modality in modalities:
            # The batch may hold the student's cached outputs.
            self.model.encoder(modality).cache = False
        self.student = student

    @torch.no_grad()
    def features(self, batch: Batch, reads: Sequence[Read]) -> ReadFeatures:
        """What the teacher makes of the clean inputs; each of its encoders runs once."""
        self._follow(batch["group"].device)
        wanted = dict.fromkeys(m for read in reads for m in read.modalities)
        encoded = self.model.encode(batch, list(wanted))
        return {
            read: self.model.fuse(encoded, read.modalities)
            if read.fused and any(m in encoded.rows for m in read.modalities)
            else encoded
            for read in reads
        }

    def _follow(self, device: torch.device) -> None:
        """To the batch's device and the student's precision: there, too, buffers keep theirs."""
        self.model.to(device)
        dtype = next(self.student.parameters()).dtype
        if next(self.model.parameters()).dtype != dtype:
            for parameter in self.model.parameters():
                parameter.data = parameter.data.to(dtype)


def _shared(source: Source, modalities: Sequence[str], student: Model) -> Model:
    opened = _opened.setdefault(student, {})
    key = source if isinstance(source, str) else json.dumps([source, modalities])
    if key not in opened:
        opened[key] = _open(source, modalities)
    return opened[key]


def _open(source: Source, modalities: Sequence[str]) -> Model:
    if isinstance(source, str):
        checkpoint = Checkpoint.open(source)
        model = from_dict(ModelConfig, checkpoint.config["model"]).build(checkpoint.assets)
        load_model(model, checkpoint)
        return model
    config = component(source, Component("mmfm.encoders"), "teacher")
    if len(modalities) > 1:
        raise ValueError(f"an encoder can't read {' and '.join(modalities)}: name a checkpoint")
    if not getattr(config, "pretrained", True) and getattr(config, "weights", None) is None:
        raise ValueError("its weights are random: set pretrained: true, or weights to a folder")
    encoder = config.build()
    (modality,) = modalities
    return Model({modality: encoder}, {modality: _AsItIs()}, encoder.width, None)


class _AsItIs(nn.Module):
    """The place of a projection: the embedding is the pooled vector itself."""

    def forward(self, pooled_BD: Tensor, *tokens_and_valid: Tensor) -> Tensor:
        return pooled_BD


def _check_inputs(modality: str, teacher: Encoder, student: Encoder) -> None:
    """ValueError where the teacher would not get the inputs that it was trained on."""
    hint = f"change model.encoders.{modality}, or take another teacher"
    # How large a table of words is says less than the tokenizer, which is compared by content.
    for key in sorted({*teacher.spec, *student.spec} - {"tokenizer", "vocab_size"}):
        theirs, ours = teacher.spec.get(key), student.spec.get(key)
        if theirs != ours:
            raise ValueError(
                f"its {modality} inputs have {key} = {theirs}, those of the model {ours}: {hint}"
            )
    if _tokenizer(teacher) != _tokenizer(student):
        raise ValueError(f"its {modality} inputs have another tokenizer than the model's: {hint}")


def _tokenizer(encoder: Encoder) -> Mapping[str, bytes]:
    """The files of the encoder's tokenizer; none where it has no tokenizer."""
    tokenizer: Any = getattr(encoder, "tokenizer", None)
    if tokenizer is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}
