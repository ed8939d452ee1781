"""Write a sample's text from its other modalities: the caption objective, fine-tuned by itself.

    head: {type: caption, sources: [image], width: 256, layers: 2, beams: 4}

Where the checkpoint `init` was pretrained with a caption objective of the same settings, its
decoder goes on from there. `beams` and `length_penalty` are those of `predict` and of the
evaluation: 1 beam takes the likeliest word each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mmfm.heads.base import Head, HeadObjective, Known
from mmfm.model import Model
from mmfm.objectives import caption
from mmfm.objectives.base import Objective, ReadFeatures
from mmfm.types import Batch, Features, LossTerms, Read

_SAME = ("modality", "sources", "width", "layers", "heads", "mlp_ratio")
"""The settings that decide whether another decoder is the same."""


@dataclass(kw_only=True)
class Config(caption.Config):
    """The settings of the caption objective, and how texts are written: the number of `beams`, the
    power of a text's length that its score is divided by, and the tokens that it has at most
    (unset: as many as the text's encoder takes).
    """

    beams: int = 1
    length_penalty: float = 1.0
    max_length: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beams < 1:
            raise ValueError(f"beams = {self.beams} must be at least 1")

    def build(self, model: Model, label_names: Sequence[str] = ()) -> CaptionHead:  # type: ignore[override]
        return CaptionHead(self, model)


class CaptionHead(Head):
    """A decoder; the loss is counted in words. The evaluation task ``caption`` judges its texts."""

    def __init__(self, config: Config, model: Model) -> None:
        super().__init__()
        self.config = config
        self.caption = caption.Caption(config, model)
        self.reads: tuple[Read, ...] = self.caption.reads
        self.caption.frame(config.max_length)  # refuses what can't be

    def objective(self) -> Objective:
        return _Objective(self)

    def known_before(self) -> Mapping[str, Known]:
        settings: dict[str, Any] = {name: getattr(self.config, name) for name in _SAME}
        return {"caption": Known(self.caption, settings)}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return self.caption.counts(batch, {})

    def forward(self, features: Mapping[Read, Features], batch: Batch) -> dict[str, Tensor]:
        """`ids` [n,max_length] of the texts that are written of the samples `rows` [n]; collective,
        in evaluation mode.
        """
        frame = self.caption.frame(self.config.max_length)
        if not features[self.reads[0]].has(self.caption.sources):
            none = batch["group"][:0]
            return {"rows": none, "ids": none.new_zeros(0, frame.most)}
        config = self.config
        samples, ids = self.caption.generate(
            dict(features), config.max_length, config.beams, config.length_penalty
        )
        return {"rows": samples, "ids": frame.filled(ids)}

    def predict(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return outputs

    def answers(self, predicted: Mapping[str, Tensor], batch: Batch) -> list[Any]:
        """``{"text": …}`` for each sample."""
        return [{"text": self.caption.text_of(ids)} for ids in predicted["ids"].tolist()]


class _Objective(HeadObjective):
    """The loss is of the words that stand there, not of those that are written."""

    head: CaptionHead

    def __init__(self, head: CaptionHead) -> None:
        super().__init__(head)
        self.raw = head.caption.raw

    def forward(self, features: ReadFeatures, batch: Batch) -> LossTerms:
        return self.head.caption(features, batch)  # type: ignore[no-any-return]
