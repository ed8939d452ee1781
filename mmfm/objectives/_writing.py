"""Write texts word by word: the likeliest word each time, or by a beam search.

A `Speaker` gives the scores of the next word. Both are collective: all ranks go on as long as one
of them has a text that isn't done, since they may share the speaker's parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmfm import distributed

Speaker = Callable[[Tensor, Tensor | None], Tensor]
"""(words [N,R], which of the texts before each goes on [N,R], None = the same ones) ▶ [N,R,V], the
logits of the word after these. R texts are written for each of N samples."""


@dataclass(frozen=True)
class Frame:
    """A text begins with `begin`, ends with the word `end`, and has at most `most` words, all of
    these included.
    """

    begin: Sequence[int]
    end: int
    most: int

    def filled(self, ids_NL: Tensor) -> Tensor:
        """[N,most]: all texts equally long."""
        return F.pad(ids_NL, (0, self.most - ids_NL.shape[1]), value=self.end)

    def begun(self, speak: Speaker, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """`count` texts that hold the beginning [N,1,L], and the logits after it [N,1,V]."""
        ids = torch.tensor(self.begin, device=device).expand(count, 1, -1)
        for at in range(len(self.begin)):
            logits = speak(ids[:, :, at], None)
        return ids, logits


def greedy(speak: Speaker, frame: Frame, count: int, device: torch.device) -> Tensor:
    """[N,L] ids of `count` texts, filled up with the end."""
    ids, logits = frame.begun(speak, count, device)
    ended = torch.zeros(count, 1, dtype=torch.bool, device=device)
    while True:
        word = logits.argmax(-1).masked_fill(ended, frame.end)
        ended |= word == frame.end
        ids = torch.cat([ids, word[:, :, None]], dim=2)
        if ids.shape[2] == frame.most or not distributed.all_reduce_sum((~ended).sum()):
            return ids[:, 0]
        logits = speak(word, None)


def beam_search(
    speak: Speaker,
    frame: Frame,
    count: int,
    device: torch.device,
    beams: int,
    length_penalty: float,
) -> tuple[Tensor, Tensor]:
    """[N,L] ids of the best text found for each sample, filled up with the end, and its score [N]:
    the sum of its words' log probabilities over (their number without the beginning) **
    `length_penalty`. The search goes on until no text in it can become better.

    As `generate` of transformers with ``num_beams`` and ``early_stopping="never"`` does it.
    """
    ids, logits = frame.begun(speak, count, device)
    total = torch.zeros(count, 1, device=device)
    best = torch.full((count,), -torch.inf, device=device)
    text = torch.full((count, frame.most), frame.end, device=device)
    first = len(frame.begin)
    while True:
        scores = total[:, :, None] + logits.log_softmax(-1)
        words = scores.shape[2]
        # Twice as many as go on, since half of them may end.
        top, at = scores.flatten(1).topk(min(2 * beams, scores[0].numel()))
        parent, word = at // words, at % words
        ids = torch.cat([_take(ids, parent), word[:, :, None]], dim=2)
        length = ids.shape[2]
        ends = (word == frame.end) | (length == frame.most)
        counted = ends & (torch.arange(top.shape[1], device=device) < beams)
        final = (top / (length - first) ** length_penalty).masked_fill(~counted, -torch.inf)
        found, which = final.max(1)
        better = found > best
        best = torch.where(better, found, best)
        text[better] = frame.end
        text[better, :length] = ids[better, which[better]]
        total, order = top.masked_fill(ends, -torch.inf).topk(min(beams, top.shape[1]))
        ids, word, parent = _take(ids, order), word.gather(1, order), parent.gather(1, order)
        reach = frame.most if length_penalty > 0 else length + 1
        hopeful = total[:, 0] / (reach - first) ** length_penalty > best
        if length == frame.most or not distributed.all_reduce_sum(hopeful.sum()):
            break
        logits = speak(word, parent)
    longest = int((text != frame.end).sum(1).max()) + 1 if count else first
    return text[:, : min(longest, frame.most)], best


def _take(ids_NRL: Tensor, which_NK: Tensor) -> Tensor:
    """[N,K,L]: the texts `which` of each sample."""
    return ids_NRL.gather(1, which_NK[:, :, None].expand(-1, -1, ids_NRL.shape[2]))
