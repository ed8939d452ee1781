"""Greedy and beam search: against transformers, and against every text that there is."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from mmfm.objectives._writing import Frame, Speaker, beam_search, greedy

CPU = torch.device("cpu")
END, VOCABULARY = 1, 9


def tiny_gpt2(seed: int = 0, vocabulary: int = VOCABULARY, size: float = 0.8):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=16, n_embd=16, n_layer=1, n_head=2, eos_token_id=END,
        bos_token_id=0, pad_token_id=END, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=size)
    # From seed to seed the end is a likelier word.
    model.transformer.ln_f.bias.data += 0.15 * seed * model.transformer.wte.weight.data[END]
    return model


def speaker_of(model, starts: list[int]) -> Speaker:
    """Continues, for each sample, its own first word and then what is asked; no keys are kept."""
    texts: list[Tensor] = []

    def speak(words_NR: Tensor, parents_NR: Tensor | None) -> Tensor:
        n, r = words_NR.shape
        if not texts:
            texts.append(torch.tensor(starts)[:, None, None])
        else:
            before = texts[0]
            if parents_NR is not None:
                before = before.gather(1, parents_NR[:, :, None].expand(-1, -1, before.shape[2]))
            texts[0] = torch.cat([before, words_NR[:, :, None]], dim=2)
        with torch.no_grad():
            return model(texts[0].flatten(0, 1)).logits[:, -1].view(n, r, -1)

    return speak


@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -1.0])
@pytest.mark.parametrize("beams", [2, 4])
def test_equals_transformers(beams: int, length_penalty: float) -> None:
    """Texts and scores, where samples end at other lengths and some not at all."""
    lengths = set()
    for seed in range(6):
        model, starts = tiny_gpt2(seed), [2, 3, 4, 5, 6]
        want = model.generate(
            torch.tensor(starts)[:, None],
            attention_mask=torch.ones(len(starts), 1, dtype=torch.int64),
            num_beams=beams,
            early_stopping="never",
            length_penalty=length_penalty,
            max_length=8,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
        )
        frame = Frame([0], END, 8)
        ids, score = beam_search(
            speaker_of(model, starts), frame, len(starts), CPU, beams, length_penalty
        )
        torch.testing.assert_close(score, want.sequences_scores, rtol=1e-5, atol=1e-6)
        assert ids[:, 1:].tolist() == want.sequences[:, 1:].tolist()
        lengths |= {row.index(END) if END in row else 8 for row in ids.tolist()}
    assert len(lengths) > 2


def test_greedy_equals_transformers() -> None:
    model, starts = tiny_gpt2(), [2, 3, 4, 5, 6]
    asked = {"attention_mask": torch.ones(5, 1, dtype=torch.int64), "do_sample": False}
    want = model.generate(torch.tensor(starts)[:, None], max_length=8, **asked)
    got = greedy(speaker_of(model, starts), Frame([0], END, 8), 5, CPU)
    assert got[:, 1:].tolist() == want[:, 1:].tolist()


@pytest.mark.parametrize("length_penalty", [1.0, 0.0, -0.5])
def test_with_room_for_all_it_finds_the_best(length_penalty: float) -> None:
    """Of all texts of up to five words, judged one by one; those that don't end are as long."""
    model, start, most = tiny_gpt2(3, 5, 0.4), 4, 7
    words = [w for w in range(5) if w != END]

    def score(text: tuple[int, ...]) -> float:
        ids = torch.tensor([[start, *text]])
        with torch.no_grad():
            logp = model(ids[:, :-1]).logits.double().log_softmax(-1)[0]
        total = logp[torch.arange(len(text)), ids[0, 1:]].sum().item()
        return total / len(text) ** length_penalty

    ended = [(*body, END) for n in range(most - 2) for body in itertools.product(words, repeat=n)]
    texts = {text: score(text) for text in (*ended, *itertools.product(words, repeat=most - 2))}
    best = max(texts, key=lambda text: texts[text])
    frame = Frame([0], END, most - 1)
    ids, value = beam_search(speaker_of(model, [start]), frame, 1, CPU, 5**5, length_penalty)
    assert value.item() == pytest.approx(texts[best], rel=1e-5)
    assert tuple(ids[0, 1 : len(best) + 1].tolist()) == best


def test_a_greedy_mistake_is_avoided() -> None:
    """The likeliest first word leads nowhere: 0.6 · 0.3 is below 0.4 · 0.9."""
    table = {
        (): {2: 0.6, 3: 0.4},
        (2,): {4: 0.3, 5: 0.25, 6: 0.25, END: 0.2},
        (3,): {END: 0.9, 4: 0.1},
    }
    said: list[list[tuple[int, ...]]] = []

    def speak(words_NR: Tensor, parents_NR: Tensor | None) -> Tensor:
        if not said:
            said.append([()])
        else:
            parents = [0] * words_NR.shape[1] if parents_NR is None else parents_NR[0].tolist()
            before = said[-1]
            said.append(
                [(*before[p], w) for p, w in zip(parents, words_NR[0].tolist(), strict=True)]
            )
        logits = torch.full((1, words_NR.shape[1], VOCABULARY), 1e-6)
        for row, text in enumerate(said[-1]):
            for word, probability in table.get(text, {END: 1.0}).items():
                logits[0, row, word] = probability
        return logits.log()

    frame = Frame([0], END, 8)
    assert greedy(speak, frame, 1, CPU).tolist() == [[0, 2, 4, END]]
    said.clear()
    ids, score = beam_search(speak, frame, 1, CPU, 2, 0.0)
    assert ids.tolist() == [[0, 3, END]]
    assert score.exp().item() == pytest.approx(0.4 * 0.9, rel=1e-3)
