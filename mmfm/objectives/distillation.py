"""Learn from a frozen teacher: a checkpoint of mmfm, or an encoder as in ``model.encoders``.

    objectives:
      like_teacher: {type: distillation, teacher: runs/large, what: logit, pairs: [[image, text]]}
      like_timm:
        type: distillation
        teacher: {type: timm_model, name: vit_base_patch16_224, pretrained: true}
        what: feature
        modality: image

The teacher gets the inputs that the data pipeline makes for the model, so both must want the same
(picture size, mean, tokenizer, …). It is needed to train and to resume, not to use what was
trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mmfm.model import Model
from mmfm.objectives._distillation.embedding import Distance, EmbeddingDistillation
from mmfm.objectives._distillation.feature import FeatureDistillation, Outputs
from mmfm.objectives._distillation.logit import LogitDistillation
from mmfm.objectives.base import Objective, ObjectiveConfig
from mmfm.objectives.base.pairs import check_pairs

_OPTIONS = {
    "embedding": ("modality", "distance"),
    "feature": ("modality", "of"),
    "logit": ("pairs", "temperature"),
}


@dataclass(kw_only=True)
class Config(ObjectiveConfig):
    """`what` the model takes over, each with its own settings:

    "embedding": that of a `modality` (or of several, ``audio+image``), by its `distance`, "cosine"
    unless set. "feature": the outputs `of` the encoder of a `modality`, "pooled" unless set.
    "logit": who is like whom, for each of `pairs`, at a `temperature`, 0.05 unless set.
    """

    for_training_only: ClassVar[bool] = True

    teacher: str | dict[str, Any]
    what: Literal["embedding", "feature", "logit"] = "embedding"
    modality: str | None = None
    distance: Distance | None = None
    of: Outputs | None = None
    pairs: list[list[str]] | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        needed, _ = mine = _OPTIONS[self.what]
        for name in sorted({name for names in _OPTIONS.values() for name in names}):
            if name not in mine and getattr(self, name) is not None:
                raise ValueError(f"{name} means nothing with what = {self.what}: leave it out")
        if getattr(self, needed) is None:
            raise ValueError(f"what = {self.what} needs {needed}")
        if self.pairs is not None:
            check_pairs(self.pairs)
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError(f"temperature = {self.temperature} must be above 0")

    def build(self, model: Model) -> Objective:
        if self.what == "logit":
            assert self.pairs is not None
            return LogitDistillation(self.teacher, self.pairs, self.temperature or 0.05, model)
        assert self.modality is not None
        if self.what == "feature":
            return FeatureDistillation(self.teacher, self.modality, self.of or "pooled", model)
        return EmbeddingDistillation(self.teacher, self.modality, self.distance or "cosine", model)
