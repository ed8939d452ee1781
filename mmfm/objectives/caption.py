"""Write a sample's text from its other modalities, word by word (the captioning loss of CoCa,
arXiv:2205.01917).

    objectives:
      caption: {type: caption, sources: [image, audio], width: 256, layers: 2}

A decoder of its own sees the words so far and, by cross-attention, the clean tokens of what the
sample has of `sources`; nothing fused, as that has seen the text. Words are looked up and scored in
the table of the text's encoder. `Caption.generate` writes texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfm.layers.decoder import Decoder
from mmfm.layers.position import LearnedPosition
from mmfm.layers.tied import TiedLinear
from mmfm.layers.transformer import NORM_EPS, TransformerConfig
from mmfm.model import Model
from mmfm.negatives import having
from mmfm.objectives._writing import Frame, beam_search, greedy
from mmfm.objectives.base import Objective, ObjectiveConfig, ReadFeatures, zero_term
from mmfm.types import Batch, Features, LossTerms, Read


@dataclass(kw_only=True)
class Config(ObjectiveConfig, TransformerConfig):
    """`modality`: what is written; `sources`: what of. The rest is the decoder's size."""

    modality: str = "text"
    sources: list[str] = field(default_factory=lambda: ["image"])
    layers: int = 2

    def __post_init__(self) -> None:
        ObjectiveConfig.__post_init__(self)
        TransformerConfig.__post_init__(self)
        if not self.sources or self.modality in self.sources:
            raise ValueError(
                f"sources = {self.sources!r}: name at least one modality, and not "
                f"{self.modality!r}, which is to be written"
            )

    def build(self, model: Model) -> Caption:
        return Caption(self, model)


class Captions(NamedTuple):
    """`samples` [N] int64: those with any of the sources; `ids` [N,L] of their texts, framed as the
    tokenizer does it and filled up with the id of the end.
    """

    samples: Tensor
    ids: Tensor


class _Memory(NamedTuple):
    """What the decoder attends to: tokens [N,M,width] and which of them are `valid` [N,M]."""

    tokens: Tensor
    valid: Tensor


class Caption(Objective):
    """Cross-entropy of each word after the first, given those before it; one term,
    ``caption_<modality>``, counted in words.
    """

    def __init__(self, config: Config, model: Model) -> None:
        super().__init__()
        self.modality = config.modality
        self.term = f"caption_{config.modality}"
        self.sources = tuple(sorted(set(config.sources)))
        self.reads = (Read("clean", self.sources),)
        self.raw = (config.modality,)
        encoder = model.encoder(config.modality)
        table, (self.begin, self.end) = encoder.word_embedding(), encoder.text_frame()
        if table is None or not self.begin or not self.end:
            raise ValueError(
                f"modality {config.modality!r} has no words to write, or its tokenizer no token "
                "that begins each text and none that ends it"
            )
        self._encoder = (encoder,)  # in a tuple it is not registered a second time
        self.max_length = int(encoder.spec["max_length"])
        self.words = TiedLinear(table)
        inner, width = self.words.in_features, config.width
        self.embed = nn.Linear(inner, width)
        self.position = LearnedPosition(self.max_length - 1, width)  # the last word is no input
        self.dropout = nn.Dropout(config.dropout)
        self.projections = nn.ModuleDict(
            {m: nn.Linear(model.encoder(m).width, width) for m in self.sources}
        )
        self.memory_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.decoder = Decoder(config)
        self.transform = nn.Linear(width, inner)

    def counts(self, batch: Batch, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.modality not in batch["rows"]:
            return {self.term: zero_term(batch["group"])[1].double()}
        _, _, valid_NL = self._texts(batch)
        return {self.term: valid_NL[:, 1:].sum().double()}

    def forward(self, features: ReadFeatures, batch: Batch) -> LossTerms:
        found = features[self.reads[0]]
        if self.modality not in batch["rows"] or not found.has(self.sources):
            return {self.term: zero_term(batch["group"])}
        samples, ids_NL, valid_NL = self._texts(batch)
        if not len(samples):
            return {self.term: zero_term(batch["group"])}
        memory = self._memory(found, samples)
        said_NLW = self._states(ids_NL[:, :-1], valid_NL[:, :-1], memory)
        predicted_NL = valid_NL[:, 1:]
        logits_PV = self._logits(said_NLW[predicted_NL])
        total = F.cross_entropy(logits_PV, ids_NL[:, 1:][predicted_NL], reduction="sum")
        return {self.term: (total, predicted_NL.sum())}

    @torch.no_grad()
    def generate(
        self,
        features: ReadFeatures,
        max_length: int | None = None,
        beams: int = 1,
        length_penalty: float = 1.0,
    ) -> Captions:
        """The texts that are likeliest word by word, or with `beams` those that a beam search finds
        (`mmfm.objectives._writing`), of at most `max_length` tokens (None: as long as the
        encoder's), special ones included. Put the objective into evaluation mode before.
        Collective: all ranks write as long as one of them does.

        ValueError where no sample has any of the sources.
        """
        found = features[self.reads[0]]
        frame = self.frame(max_length)
        if not found.has(self.sources):
            raise ValueError(f"no sample has any of {', '.join(self.sources)}")
        samples = having(found.rows, self.sources, found.batch_size).nonzero()[:, 0]
        memory = self._memory(found, samples)
        state = self.decoder.begin(memory.tokens, memory.valid)

        def speak(words_NR: Tensor, parents_NR: Tensor | None) -> Tensor:
            if parents_NR is not None:
                before = torch.arange(len(words_NR), device=words_NR.device)
                sequences = state.past_rows // max(1, len(words_NR))
                state.take((before[:, None] * sequences + parents_NR).flatten())
            embedded = self.embed(self.words.embed(words_NR))
            # Each of the R texts of a sample is a token at the same place.
            placed = self.position(embedded.flatten(0, 1)[:, None], start=state.length)
            return self._logits(self.decoder.next(placed.view(embedded.shape), state))

        if beams == 1:
            return Captions(samples, greedy(speak, frame, len(samples), samples.device))
        ids, _ = beam_search(speak, frame, len(samples), samples.device, beams, length_penalty)
        return Captions(samples, ids)

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of a row of `Captions.ids`."""
        return self._encoder[0].text_of(ids)

    def frame(self, max_length: int | None = None) -> Frame:
        """How texts begin and end; ValueError for a `max_length` that its encoder can't take."""
        most = self.max_length if max_length is None else max_length
        if not len(self.begin) < most <= self.max_length:
            raise ValueError(
                f"max_length = {most} must be above {len(self.begin)} and at most "
                f"{self.max_length}, which the text's encoder takes"
            )
        return Frame(self.begin, self.end[0], most)

    def _texts(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(samples [N], ids [N,L], valid [N,L]) of those that have a text and any of the
        sources.
        """
        ids, rows = batch[self.modality], batch["rows"][self.modality]
        valid = batch.get(f"{self.modality}_mask")
        valid = torch.ones_like(ids, dtype=torch.bool) if valid is None else valid
        chosen = having(batch["rows"], self.sources, len(batch["sample_id"]))[rows]
        return rows[chosen], ids[chosen], valid[chosen]

    def _memory(self, found: Features, samples_N: Tensor) -> _Memory:
        """The tokens of what each of these samples has of the sources, side by side."""
        place_B = torch.full((found.batch_size,), -1, device=samples_N.device)
        place_B[samples_N] = torch.arange(len(samples_N), device=samples_N.device)
        tokens, valid = [], []
        for m in (m for m in self.sources if m in found.rows):
            place = place_B[found.rows[m]]
            there = place >= 0
            part = self.projections[m](found.tokens[m][there])
            known = found.valid[m][there]
            size = (len(samples_N), *part.shape[1:])
            tokens.append(part.new_zeros(size).index_copy(0, place[there], part))
            valid.append(known.new_zeros(size[:2]).index_copy(0, place[there], known))
        return _Memory(self.memory_norm(torch.cat(tokens, dim=1)), torch.cat(valid, dim=1))

    def _states(self, ids_NL: Tensor, valid_NL: Tensor | None, memory: _Memory) -> Tensor:
        """[N,L,width]: what the decoder knows of the word after each of `ids`."""
        x_NLW = self.dropout(self.position(self.embed(self.words.embed(ids_NL))))
        out: Tensor = self.decoder(x_NLW, memory.tokens, valid_NL, memory.valid)
        return out

    def _logits(self, states_PW: Tensor) -> Tensor:
        """[…,width] ▶ […,V] float32: the score of every word."""
        found: Tensor = self.words(self.transform(states_PW)).float()
        return found
