"""A tag for each token of a text, as for named entities; alone, or fused with what belongs to it.

head: {type: token_classification}                      # data made by `mmfm data make conll`
head: {type: token_classification, beside: [image]}     # the tokens as the fusion sees them

A token's tag is read off its first sub-word. See `mmfm.data.transforms._tagged_text` for how tokens
meet sub-words, and long texts windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfm.entities import entities
from mmfm.heads.base import Head
from mmfm.layers.transformer import init_weights
from mmfm.model import Model
from mmfm.types import IGNORE_INDEX, Batch, Features, LabelKind, LossTerms, Read

TEXT = "text"
NO_TAG = -1
"""What is predicted for a token of which the tokenizer leaves nothing; in no entity."""


@dataclass(kw_only=True)
class Config:
    """`label`: the field of the JSON that holds a tag for each of the ``tokens``. `beside`: other
    modalities, which the fusion sees along with the text. `overlap`: by how many sub-words the
    windows of a long text overlap.
    """

    label: str = "tags"
    beside: list[str] = field(default_factory=list)
    dropout: float = 0.1
    label_smoothing: float = 0.0
    overlap: int = 16
    label_kind: ClassVar[LabelKind] = "tags"

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1 or not 0 <= self.label_smoothing < 1:
            raise ValueError("dropout and label_smoothing must be at least 0 and below 1")

    def build(self, model: Model, label_names: Sequence[str]) -> TokenClassificationHead:
        return TokenClassificationHead(self, model, label_names)


class TokenClassificationHead(Head):
    """A linear layer on the tokens of a text; the loss is counted in tokens that have a tag."""

    def __init__(self, config: Config, model: Model, label_names: Sequence[str]) -> None:
        super().__init__()
        encoder = model.encoder(TEXT)
        if encoder.cache:
            raise ValueError(
                "the text's encoder has cache = true, but its cached outputs are of whole texts, "
                "not of tokens and windows: set model.encoders.text.cache=false"
            )
        if len(label_names) < 2:
            raise ValueError(
                f"label {config.label!r} has {len(label_names)} tag: nothing to tell apart"
            )
        self.label = config.label
        self.label_names = list(label_names)
        modalities = tuple(sorted({TEXT, *config.beside}))
        for modality in modalities:
            model.encoder(modality)
        if config.beside and model.fusion is None:
            raise ValueError("head.beside names what is fused, but model.fusion is null")
        self.read = Read("clean", modalities, fused=bool(config.beside))
        self.reads = (self.read,)
        width = encoder.width if not self.read.fused else model.fusion_width
        assert width is not None
        self._spec = {
            **encoder.spec,
            "tags": {"field": self.label, "names": self.label_names, "overlap": config.overlap},
        }
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(width, len(self.label_names))
        self.label_smoothing = config.label_smoothing
        init_weights(self.classifier)  # see `mmfm.heads._pooled`

    @property
    def specs(self) -> dict[str, dict[str, Any]]:
        return {TEXT: self._spec}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        if TEXT not in batch["rows"]:
            return {"token_classification": batch["group"].new_zeros(()).double()}
        tags = _tags_of_places(batch)
        return {"token_classification": (tags != IGNORE_INDEX).sum().double()}

    def forward(self, features: Mapping[Read, Features], batch: Batch) -> dict[str, Tensor]:
        """`logits` [P,tags] of the P sub-words that begin a token which is judged there, `place`
        [P]: of which row of the text, and `word` [P] which of its tokens; for the rows `rows` [R]
        and `words` [R], how many tokens each has; `window` [R] is above 0 where a row goes on with
        the text of the one before.
        """
        if TEXT not in batch["rows"]:
            none = batch["group"][:0]
            logits = self.classifier.weight.new_zeros(0, len(self.label_names))
            return {"logits": logits, **dict.fromkeys(("place", "word", *_OF_ROWS), none)}
        found = features[self.read]
        tokens = found.fused[TEXT] if self.read.fused else found.tokens[TEXT]
        place, at = (batch["text_words"] >= 0).nonzero(as_tuple=True)
        chosen = tokens[place, at].to(self.norm.weight.dtype)
        rows = batch["rows"][TEXT]
        window = batch.get("window")
        lengths = torch.tensor([len(t) for t in batch["text_tokens"]], device=rows.device)
        return {
            "logits": self.classifier(self.dropout(self.norm(chosen))),
            "place": place,
            "word": batch["text_words"][place, at],
            "rows": rows,
            "words": lengths,
            "window": torch.zeros_like(rows) if window is None else window[rows],
        }

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> LossTerms:
        if not len(outputs["rows"]):
            return {"token_classification": (outputs["logits"].sum(), outputs["rows"].sum())}
        tags = _tags_of_places(batch)
        total = F.cross_entropy(
            outputs["logits"].float(),
            tags,
            ignore_index=IGNORE_INDEX,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        return {"token_classification": (total, (tags != IGNORE_INDEX).sum())}

    def predict(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """`tags` [n,W] of each text's tokens, `NO_TAG` where a token has no sub-word and
        `IGNORE_INDEX` behind its last, and the `probability` [n,W] of each, NaN there.
        """
        first = outputs["window"] == 0
        text_of_row = first.cumsum(0) - 1
        lengths = outputs["words"][first]
        most = int(lengths.max()) if len(lengths) else 0
        behind = torch.arange(most, device=lengths.device)[None, :] >= lengths[:, None]
        tags = torch.full_like(behind, NO_TAG, dtype=torch.int64).masked_fill(behind, IGNORE_INDEX)
        sure = torch.full_like(behind, torch.nan, dtype=torch.float32)
        highest, best = outputs["logits"].float().softmax(-1).max(-1)
        where = (text_of_row[outputs["place"]], outputs["word"])
        return {
            "tags": tags.index_put(where, best),
            "probability": sure.index_put(where, highest),
            "rows": outputs["rows"][first],
        }

    def answers(self, predicted: Mapping[str, Tensor], batch: Batch) -> list[Any]:
        """``tokens``, the ``tags`` of them, and ``entities``: ``type``, ``text``, and from which
        token ``start`` to before which token ``end`` it goes.
        """
        row_of = {int(sample): row for row, sample in enumerate(batch["rows"][TEXT])}
        found = []
        for place, sample in enumerate(predicted["rows"].tolist()):
            tokens: list[str] = batch["text_tokens"][row_of[sample]]
            numbers = predicted["tags"][place, : len(tokens)].tolist()
            tags = [self.label_names[n] if n >= 0 else "O" for n in numbers]
            spans = [
                {"type": kind, "text": " ".join(tokens[start:end]), "start": start, "end": end}
                for kind, start, end in entities(tags)
            ]
            found.append({"tokens": tokens, "tags": tags, "entities": spans})
        return found

    def target(self, batch: Batch, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The tags [n,W] of the texts `rows`, and which of these have any."""
        row_B = torch.full_like(batch["group"], -1)
        row_B[batch["rows"][TEXT]] = torch.arange(len(batch["rows"][TEXT]), device=row_B.device)
        tags = batch["text_tags"][row_B[rows]]
        return tags, (tags != IGNORE_INDEX).any(1)


_OF_ROWS = ("rows", "words", "window")


def _tags_of_places(batch: Batch) -> Tensor:
    """[P]: the tag of each sub-word that begins a token which is judged there."""
    place, at = (batch["text_words"] >= 0).nonzero(as_tuple=True)
    tags: Tensor = batch["text_tags"][place, batch["text_words"][place, at]]
    return tags
