"""The next item of a history: a causal transformer over what somebody chose, in order.

head: {type: recommendation, items: {path: data/movielens, splits: [items]}, modalities: [text]}

As SASRec (Kang and McAuley 2018, arXiv:1808.09781), with the softmax over all items at every
position (Klenitskiy and Vasilev 2023, arXiv:2309.07602). An item's vector is learnt for its id,
plus a projection of what the model's frozen encoders say of its text, picture or sound; the same
vectors are read and predicted. They are encoded once, at the start of the training, and lie in the
checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfm.heads.base import Head
from mmfm.layers.position import LearnedPosition
from mmfm.layers.transformer import TransformerConfig
from mmfm.masking import mix_ints, seed_dropout
from mmfm.model import Model
from mmfm.types import IGNORE_INDEX, Batch, Features, LossTerms, Read

HISTORY = "history"


@dataclass(kw_only=True)
class ItemsConfig:
    """Where the items are: a folder of shards, and which of its splits; one sample an item."""

    path: str
    splits: list[str] | None = None


@dataclass(kw_only=True)
class Config(TransformerConfig):
    """`modalities`: what of an item the model's encoders read, none = ids only. `max_length`: the
    latest items of a history that are read. `held_out`: the items at the end of each history that
    are never trained on; evaluation asks for them. `item_dropout` is that of the item's features.
    """

    items: ItemsConfig
    modalities: list[str] = field(default_factory=lambda: ["text"])
    max_length: int = 50
    held_out: int = 2
    item_dropout: float = 0.0
    width: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length < 1 or self.held_out < 0:
            raise ValueError("max_length must be at least 1 and held_out at least 0")
        if not 0 <= self.item_dropout < 1:
            raise ValueError(f"item_dropout = {self.item_dropout} must be in [0, 1)")

    def build(self, model: Model, label_names: Sequence[str]) -> RecommendationHead:
        """The head for the items with the ids `label_names`."""
        return RecommendationHead(self, model, label_names)


class RecommendationHead(Head):
    """Scores of all items after each item of a history."""

    asked_by = "recommend"

    def __init__(self, config: Config, model: Model, item_ids: Sequence[str]) -> None:
        super().__init__()
        if len(item_ids) < 2:
            raise ValueError(f"head.items holds {len(item_ids)} items: nothing to choose from")
        if HISTORY in model.encoders:
            raise ValueError(f"model.encoders.{HISTORY}: the head reads the histories itself")
        self.item_ids = list(item_ids)
        self.rows = {item: row for row, item in enumerate(self.item_ids)}
        self.modalities = list(config.modalities)
        self.held_out = config.held_out
        self.max_length = config.max_length
        items, width = len(self.item_ids), config.width
        self.item_table = nn.Parameter(torch.empty(items, width))
        nn.init.trunc_normal_(self.item_table, std=0.02)
        self.item_projections = nn.ModuleDict()
        for modality in config.modalities:
            encoder = model.encoder(modality)
            if not encoder.frozen:
                raise ValueError(
                    f"head.modalities: items are encoded once, but the encoder of {modality!r} "
                    "trains; set freeze=encoders or freeze=model, or leave the modality out"
                )
            self.register_buffer(_buffer(modality), torch.zeros(items, encoder.width))
            projection = nn.Linear(encoder.width, width, bias=False)
            nn.init.trunc_normal_(projection.weight, std=0.01)
            self.item_projections[modality] = projection
        self.position = LearnedPosition(config.max_length, width)
        self.dropout = nn.Dropout(config.dropout)
        self.item_dropout = nn.Dropout(config.item_dropout)
        self.transformer = config.transformer(causal=True)

    @property
    def specs(self) -> dict[str, dict[str, Any]]:
        return {
            HISTORY: {
                "items": self.item_ids,
                "max_length": self.max_length,
                "held_out": self.held_out,
            }
        }

    def set_item_features(self, modality: str, rows: Tensor, pooled_ND: Tensor) -> None:
        """Put what an encoder says of the items `rows` [N] into the table; other items have none.

        Scaled so that a component is about 1 whatever the encoder.
        """
        table = getattr(self, _buffer(modality))
        table.zero_()
        scaled = F.normalize(pooled_ND.float(), dim=-1) * pooled_ND.shape[1] ** 0.5
        table[rows.to(table.device)] = scaled.to(table)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"next_item": (_following(batch) != IGNORE_INDEX).sum().double()}

    def forward(self, features: Mapping[Read, Features], batch: Batch) -> dict[str, Tensor]:
        """`logits` [P,N] of the P places that have a next item in ``history_next``, and those
        `items` [P]; without that key `logits` [B,N] after the last item of each history.
        """
        if self.training and "dropout_seed" in batch:
            seed_dropout(next(self.parameters()).device, mix_ints(batch["dropout_seed"], 0))
        items = self.items()
        if "history_next" in batch or HISTORY not in batch:
            following = _following(batch)
            hidden = self.states(items, batch.get(HISTORY, following))
            learnt = following != IGNORE_INDEX
            return {"logits": hidden[learnt] @ items.T, "items": following[learnt]}
        history, length = self.latest(batch["history"], batch["history_mask"].sum(1))
        hidden = self.states(items, history)
        last = (length - 1).clamp(min=0)
        hidden = hidden[torch.arange(len(last), device=last.device), last]
        return {"logits": hidden @ items.T, "rows": batch["rows"][HISTORY]}

    def items(self) -> Tensor:
        """[N,width]: the vector of each item."""
        vectors: Tensor = self.item_table
        for modality, projection in self.item_projections.items():
            vectors = vectors + self.item_dropout(projection(getattr(self, _buffer(modality))))
        return vectors

    def states(self, items_NW: Tensor, history_BL: Tensor) -> Tensor:
        """[B,L,W] after each item of the histories; padding comes last, so no item sees it."""
        x_BLW = F.embedding(history_BL, items_NW) * items_NW.shape[1] ** 0.5
        found_BLW: Tensor = self.transformer(self.dropout(self.position(x_BLW)))
        return found_BLW

    def latest(self, history_BL: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor]:
        """The last `max_length` items of each history, and how many they are."""
        size = min(self.max_length, history_BL.shape[1])
        start = (length_B - size).clamp(min=0)
        places = start[:, None] + torch.arange(size, device=start.device)
        return history_BL.gather(1, places), length_B.clamp(max=size)

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> LossTerms:
        logits, items = outputs["logits"].float(), outputs["items"]
        total = F.cross_entropy(logits, items, reduction="sum")
        return {"next_item": (total, torch.tensor(len(items), device=items.device))}

    def predict(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """`item` [B,N] int64: all items, the likeliest first."""
        return {"item": outputs["logits"].argsort(dim=-1, descending=True), "rows": outputs["rows"]}


def _following(batch: Batch) -> Tensor:
    """``history_next`` [B,L]; of a micro-batch of other samples, without any history, [0,1]."""
    if HISTORY in batch:
        following: Tensor = batch["history_next"]
        return following
    return torch.zeros(0, 1, dtype=torch.int64, device=batch["group"].device)


def _buffer(modality: str) -> str:
    return f"item_{modality}"
