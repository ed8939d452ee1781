"""Models that know a phrase book by heart, and how to make one in a second."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

SPECIAL = ["<pad>", "</s>", "<unk>"]


def save_tokenizer(folder: Path, words: list[str]) -> PreTrainedTokenizerFast:
    """One token a word, and an end token behind each text, as T5 has it."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *dict.fromkeys(words)])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_translator(folder: Path, phrases: dict[str, str], steps: int = 120) -> str:
    """A small T5 that says the value for each key of `phrases`; its folder."""
    torch.manual_seed(0)
    tokenizer = save_tokenizer(folder, " ".join([*phrases, *phrases.values()]).split())
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=32,
            d_kv=16,
            d_ff=64,
            num_layers=1,
            num_heads=2,
            num_decoder_layers=1,
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
        )
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    inputs = tokenizer(list(phrases), return_tensors="pt", padding=True)
    labels = tokenizer(list(phrases.values()), return_tensors="pt", padding=True)["input_ids"]
    labels[labels == 0] = -100
    for _ in range(steps):
        loss = model(inputs["input_ids"], inputs["attention_mask"], labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.save_pretrained(folder)
    return str(folder)
