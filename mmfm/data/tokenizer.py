"""Tokenizers: text ▶ token ids, loaded from a folder or by name, or trained on texts.

`load_tokenizer(name_or_folder)` reads ``tokenizer.json`` from a folder, or asks transformers for
any name that it knows. `train_bpe(texts, vocab_size, folder)` makes a byte-level BPE (any text in
any script has an encoding):

    tokenizer = train_bpe(["a red dot", …], vocab_size=2000, folder=Path("tokenizer"))
    tokenizer.encode("a red dot", max_length=16)  # [CLS] … [SEP]

Words in a text that look like special tokens ("[MASK]") are ordinary text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# What each role is called in tokenizer_config.json, and the names that are common without one.
_ROLES = {
    "pad": (("pad_token",), ("[PAD]", "<pad>", "<|pad|>")),
    "mask": (("mask_token",), ("[MASK]", "<mask>")),
    "cls": (("cls_token", "bos_token"), ("[CLS]", "<s>", "<|startoftext|>")),
    "sep": (("sep_token", "eos_token"), ("[SEP]", "</s>", "<|endoftext|>")),
}


class Tokenizer:
    """A tokenizer of the tokenizers library, with its special tokens by role.

    `vocab_size`: one more than the largest id. `pad_id` (0 where there is no padding token: padding
    is always masked),
    `mask_id`, `cls_id` and `sep_id` (None where there is none; `bos_id` and `eos_id` are the same),
    `special_ids`.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, roles: Mapping[str, str] | None = None
    ) -> None:
        self._backend = backend
        self._of_words: tokenizers.Tokenizer | None = None
        backend.no_truncation()
        backend.no_padding()
        self._template = _template(backend)
        backend.encode_special_tokens = True
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values()) + 1
        self._roles = dict(roles or {})
        ids: dict[str, int | None] = {}
        for role, (_, common) in _ROLES.items():
            name = self._roles.get(role) or next((n for n in common if n in vocabulary), None)
            if name is not None and name not in vocabulary:
                raise ValueError(f"the tokenizer's {role} token {name!r} is not in its vocabulary")
            ids[role] = None if name is None else vocabulary[name]
            if name is not None:
                self._roles[role] = name
        self.pad_id: int = ids["pad"] or 0
        self.mask_id = ids["mask"]
        self.cls_id = self.bos_id = ids["cls"]
        self.sep_id = self.eos_id = ids["sep"]
        added = backend.get_added_tokens_decoder()
        special = {i for i, token in added.items() if token.special}
        self.special_ids: tuple[int, ...] = tuple(
            sorted(special | {i for i in ids.values() if i is not None})
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _of_words=None)
        self._backend.encode_special_tokens = True  # not part of the library's own pickled state

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """The ids that stand before and after every text."""
        return self._template

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        """Token ids with the special tokens around them, at most `max_length` in all (the text is
        cut).
        """
        prefix, suffix = self._template
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        if max_length is not None:
            room = max_length - len(prefix) - len(suffix)
            if room < 1:
                raise ValueError(f"max_length = {max_length} leaves no room for a token of text")
            ids = ids[:room]
        return [*prefix, *ids, *suffix]

    def encode_words(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        """Sub-word ids of a text that is split into `words`, and of which word each is; without
        special tokens, and not cut. Every word is as it is in the middle of a text.
        """
        if self._of_words is None:
            self._of_words = _with_prefix_space(self._backend)
        found = self._of_words.encode(list(words), is_pretokenized=True, add_special_tokens=False)
        return found.ids, [word for word in found.word_ids if word is not None]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` without special tokens."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=True)
        return text.strip()

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json into `folder`, from which `load_tokenizer`
        reads.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # Not by its own `save`, which raises a plain Exception where the disk is full.
        text = self._backend.to_str(pretty=True)
        (folder / "tokenizer.json").write_text(text, encoding="utf-8")
        keys = {role: names[0] for role, (names, _) in _ROLES.items()}
        config = {"tokenizer_class": "PreTrainedTokenizerFast"}
        config |= {keys[role]: token for role, token in self._roles.items()}
        text = json.dumps(config, ensure_ascii=False, indent=1, sort_keys=True)
        (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def load_tokenizer(name_or_folder: str | Path) -> Tokenizer:
    """The tokenizer in a folder, or the one that transformers knows by this name.

    ValueError if there is none.
    """
    folder = Path(name_or_folder)
    if (folder / "tokenizer.json").is_file():
        try:
            backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"{folder / 'tokenizer.json'} is no tokenizer: {error}") from None
        return Tokenizer(backend, _configured_roles(folder))
    # Importing transformers takes seconds, and most runs never need it.
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(str(name_or_folder))
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(
            f"no tokenizer {str(name_or_folder)!r}: neither a folder with tokenizer.json nor "
            f"a name that transformers can load ({first})"
        ) from None
    fast = getattr(loaded, "backend_tokenizer", None)
    if not isinstance(fast, tokenizers.Tokenizer):
        raise ValueError(
            f"tokenizer {str(name_or_folder)!r} has no form for the tokenizers library; convert "
            "it with transformers (save_pretrained of its fast version) and give that folder"
        )
    roles = {
        role: str(token)
        for role, (keys, _) in _ROLES.items()
        if (token := next((t for k in keys if (t := getattr(loaded, k, None))), None))
    }
    return Tokenizer(tokenizers.Tokenizer.from_str(fast.to_str()), roles)


def train_bpe(texts: Iterable[str], vocab_size: int, folder: str | Path) -> Tokenizer:
    """Train a byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2) on `texts` and save it in
    `folder`.

    The same texts give the same tokenizer. `vocab_size` counts the 256 bytes and the 5 special
    tokens.
    """
    smallest = len(SPECIAL_TOKENS) + len(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < smallest:
        raise ValueError(f"vocab_size = {vocab_size}: a byte-level BPE needs at least {smallest}")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    tokenizer = Tokenizer(backend)
    tokenizer.save(folder)
    return tokenizer


def _with_prefix_space(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """`backend` for words that were split before: where bytes of a text tell a space before a word,
    every word has one.
    """
    whole = json.loads(backend.to_str())
    outer = whole["pre_tokenizer"] or {}
    for part in (outer, *outer.get("pretokenizers", ())):
        if part.get("type") == "ByteLevel":
            part["add_prefix_space"] = True
    changed = tokenizers.Tokenizer.from_str(json.dumps(whole))
    changed.encode_special_tokens = True
    return changed


def _template(backend: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before and after a text: found by encoding one."""
    inner = backend.encode("a", add_special_tokens=False).ids
    whole = backend.encode("a", add_special_tokens=True).ids
    for start in range(len(whole) - len(inner) + 1):
        if whole[start : start + len(inner)] == inner:
            return whole[:start], whole[start + len(inner) :]
    raise ValueError(f"the tokenizer changes a text when it adds special tokens: {inner} ▶ {whole}")


def _configured_roles(folder: Path) -> dict[str, str]:
    """role ▶ token, from special_tokens_map.json and tokenizer_config.json where they are there."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file():
            settings |= json.loads(path.read_text(encoding="utf-8"))
    roles = {}
    for role, (keys, _) in _ROLES.items():
        for key in keys:
            token = settings.get(key)
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                roles[role] = token
                break
    return roles
