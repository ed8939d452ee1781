"""What a text encoder must know of its tokenizer: the size of the vocabulary and the ids with a
special meaning.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from mmfm.masking import counter_hash, derive_seed, uniform

MASK_TOKENS = ("[MASK]", "<mask>")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Vocabulary:
    """`size` ids; `special` [n] int64 are never masked, `regular` are the rest; `mask_id` is -1
    without a mask token.
    """

    size: int
    special: Tensor
    regular: Tensor
    mask_id: int


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer in a folder's tokenizer.json, or else the one that transformers finds by
    `name`.

    Raises:
        ValueError: where there is none.
    """
    file = Path(name) / "tokenizer.json"
    if file.is_file():
        return Tokenizer.from_file(str(file))
    from transformers import AutoTokenizer  # takes seconds to import, and only names need it

    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(name).backend_tokenizer
    except Exception as error:  # transformers raises many kinds
        raise ValueError(
            f"there is no tokenizer {name!r}: give a folder with a tokenizer.json, or a name on "
            f"the hub, and the network to reach it ({error})"
        ) from None
    return tokenizer


def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """The `Vocabulary` of a tokenizer."""
    added = tokenizer.get_added_tokens_decoder()
    special = sorted(i for i, token in added.items() if token.special)
    size = max(tokenizer.get_vocab().values()) + 1
    masks = [tokenizer.token_to_id(token) for token in MASK_TOKENS]
    regular = torch.ones(size, dtype=torch.bool)
    regular[special] = False
    return Vocabulary(
        size=size,
        special=torch.tensor(special, dtype=torch.int64),
        regular=regular.nonzero()[:, 0],
        mask_id=next((i for i in masks if i is not None), -1),
    )


def save_tokenizer(tokenizer: Tokenizer, source: str, folder: Path) -> None:
    """Write tokenizer.json into `folder`, and the files that describe its special tokens where
    `source` has them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name in TOKENIZER_FILES[1:]:
        if (Path(source) / name).is_file() and Path(source).resolve() != folder.resolve():
            shutil.copyfile(Path(source) / name, folder / name)


def replace_masked(
    ids_BL: Tensor, masked_BL: Tensor, mask_seed_B: Tensor, words: Vocabulary
) -> Tensor:
    """BERT's corruption (Devlin et al. 2019): of the masked ids 80 % become the mask token, 10 % a
    random regular one.

    What happens to a token depends on its sample's `mask_seed` and its position only.

    Raises:
        ValueError: if the tokenizer has no mask token.
    """
    if words.mask_id < 0:
        raise ValueError(f"the tokenizer has none of the mask tokens {', '.join(MASK_TOKENS)}")
    positions = torch.arange(ids_BL.shape[1], device=ids_BL.device)
    # Seeds of their own: the draw that chose the masked positions must not decide what becomes of
    # them.
    chance = uniform(derive_seed(mask_seed_B, 1), positions)
    drawn = counter_hash(derive_seed(mask_seed_B, 2), positions).remainder(len(words.regular))
    random_ids = words.regular.to(ids_BL.device)[drawn]
    ids = ids_BL.masked_fill(masked_BL & (chance < 0.8), words.mask_id)
    return torch.where(masked_BL & (chance >= 0.8) & (chance < 0.9), random_ids, ids)
