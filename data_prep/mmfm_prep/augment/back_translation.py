"""Paraphrases by translation into another language and back (Sennrich et al. 2016).

    there_and_back = BackTranslation(forward="Helsinki-NLP/opus-mt-en-de",
                                     back="Helsinki-NLP/opus-mt-de-en")
    there_and_back.apply(["a dog runs along the beach"])

Any sequence-to-sequence model of transformers, by name or folder: those of one direction (Marian),
those that a prefix steers (T5, ``>>fra<<`` of Marian), those with language codes (NLLB, M2M-100,
mBART). The same result each time: greedy or beam search, and no batch across samples.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mmfm_prep.errors import PrepError


@dataclass(kw_only=True)
class BackTranslation:
    """`forward` translates texts of `language` (a key of the texts), `back` what comes out.

    `forward_prefix`, `back_prefix`: put before each text. `language_code`, `pivot_code`: how models
    with language codes name the two (NLLB: ``eng_Latn``, ``deu_Latn``). `batch`: texts at a time.
    `max_tokens`: texts that are longer before or after a translation are not translated.
    """

    forward: str
    back: str
    language: str = "en"
    forward_prefix: str = ""
    back_prefix: str = ""
    language_code: str | None = None
    pivot_code: str | None = None
    num_beams: int = 1
    batch: int = 16
    max_tokens: int = 128
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("num_beams", "batch", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")
        if (self.language_code is None) != (self.pivot_code is None):
            raise ValueError("language_code and pivot_code: name both or none")

    def apply(self, texts: Sequence[str]) -> list[str | None]:
        """Each text there and back; None where nothing came of it, or it is too long."""
        here, there = self.language_code, self.pivot_code
        pivots = self._each(texts, self.forward, self.forward_prefix, here, there)
        return self._each(pivots, self.back, self.back_prefix, there, here)

    def _each(
        self,
        texts: Sequence[str | None],
        name: str,
        prefix: str,
        source: str | None,
        target: str | None,
    ) -> list[str | None]:
        """Each text in one direction; None stays None."""
        tokenizer, model = _load(name, self.device)
        options: dict[str, Any] = {"num_beams": self.num_beams, "do_sample": False}
        options |= {"max_new_tokens": self.max_tokens, "max_length": None}
        if source is not None and target is not None:
            _token(tokenizer, source, name)
            tokenizer.src_lang = source
            options["forced_bos_token_id"] = _token(tokenizer, target, name)
        limit = getattr(model.config, "max_position_embeddings", None)
        if limit is not None and self.max_tokens > limit:
            raise PrepError(f"max_tokens = {self.max_tokens}: {name} takes no more than {limit}")
        out: list[str | None] = [None] * len(texts)
        fitting = [
            (place, prefix + text)
            for place, text in enumerate(texts)
            if text is not None and len(tokenizer(prefix + text)["input_ids"]) <= self.max_tokens
        ]
        for start in range(0, len(fitting), self.batch):
            part = fitting[start : start + self.batch]
            new = self._generated([text for _, text in part], tokenizer, model, options)
            for (place, _), text in zip(part, new, strict=True):
                out[place] = text
        return out

    def _generated(
        self, texts: list[str], tokenizer: Any, model: Any, options: dict[str, Any]
    ) -> list[str | None]:
        """What the model writes; None where it wrote nothing, or came to no end."""
        import torch

        inputs = tokenizer(texts, return_tensors="pt", padding=True).to(self.device)
        inputs.pop("token_type_ids", None)
        with torch.inference_mode():
            ids = model.generate(**inputs, **options)
        ends = torch.tensor(model.generation_config.eos_token_id, device=ids.device).flatten()
        # The first token is what the decoder starts with, for some models the end token too.
        ended = torch.isin(ids[:, 1:], ends).any(1).tolist()
        plain = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [
            text.strip() or None if end else None for text, end in zip(plain, ended, strict=True)
        ]


def _token(tokenizer: Any, code: str, name: str) -> int:
    """The token of a language code."""
    if not hasattr(tokenizer, "src_lang"):
        raise PrepError(f"{name} knows no language codes: leave out language_code")
    if hasattr(tokenizer, "get_lang_id"):  # M2M-100 writes __de__ for de
        known = list(tokenizer.lang_code_to_id)
        if code in known:
            return int(tokenizer.get_lang_id(code))
    else:
        token = tokenizer.convert_tokens_to_ids(code)
        if token is not None and token != tokenizer.unk_token_id:
            return int(token)
        known = list(tokenizer.all_special_tokens)
    near = difflib.get_close_matches(code, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "see its model card"
    raise PrepError(f"{name} has no language code {code!r}; {hint}")


@cache
def _load(name: str, device: str) -> tuple[Any, Any]:
    """Tokenizer and model; once a process."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
    from transformers.utils import logging

    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise PrepError(f"back-translation: there is no folder {name}")
    logging.disable_progress_bar()  # each process would draw its own
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForSeq2SeqLM.from_pretrained(name).eval().to(device)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PrepError(
            f"back-translation can't load {name!r} as a sequence-to-sequence model of "
            f"transformers: {reason}"
        ) from None
    return tokenizer, model
