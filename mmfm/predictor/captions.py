"""Texts that a model writes of samples: of a caption head, or of a pretrained caption objective."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mmfm.config import ConfigError
from mmfm.heads.caption import CaptionHead
from mmfm.objectives.caption import Caption
from mmfm.predictor.outputs import Ints
from mmfm.predictor.table import Table
from mmfm.task import Output, Task
from mmfm.types import Batch

if TYPE_CHECKING:
    from mmfm.predictor.core import Predictor


@dataclass(frozen=True)
class Writing:
    """How texts are written: see `mmfm.heads.caption.Config`. What is None is as the head has it,
    else one beam and as many tokens as the text's encoder takes.
    """

    beams: int | None = None
    length_penalty: float | None = None
    max_length: int | None = None


@dataclass
class Written:
    """Texts of samples with their ids and groups."""

    texts: list[str]
    row_ids: list[str]
    groups: Ints


def captioner(task: Task) -> Caption:
    """What writes texts in `task`; ConfigError where nothing does."""
    for objective in task.modules():
        if isinstance(objective, Caption):
            return objective
    raise ConfigError(
        "the checkpoint writes no texts: pretrain it with a caption objective, or fine-tune a "
        "caption head (mmfm finetune)"
    )


@torch.no_grad()
def write_captions(predictor: Predictor, data: Iterable[Batch], how: Writing) -> Written:
    """A text of every sample in `data` that has any of what it is written from; collective.

    ValueError where none has.
    """
    task, table = predictor.task, Table()
    caption = captioner(task)
    own = predictor.head.config if isinstance(predictor.head, CaptionHead) else None
    beams = how.beams or (own.beams if own else 1)
    length_penalty = how.length_penalty
    if length_penalty is None:
        length_penalty = own.length_penalty if own else 1.0
    frame = caption.frame(how.max_length or (own.max_length if own else None))

    def write(batch: Batch) -> Output:
        features = task.features(batch, caption.reads)
        samples, ids = caption.generate(features, frame.most, beams, length_penalty)
        return Output(predictions={"rows": samples, "ids": frame.filled(ids)})

    for batch in data:
        if not any(m in batch["rows"] for m in caption.sources):  # the same on all ranks
            continue
        found = predictor.run(batch, use=write).predictions
        table.add(batch, found["rows"].cpu(), {"ids": found["ids"]})
    rows = table.gather()
    if not rows.ids:
        raise ValueError(f"no sample has any of {', '.join(caption.sources)} to write about")
    texts = [caption.text_of(ids) for ids in rows.columns["ids"].tolist()]
    return Written(texts, rows.ids, rows.groups)
