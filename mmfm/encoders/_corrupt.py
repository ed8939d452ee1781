"""BERT's corruption of masked words (Devlin et al. 2019), as a function of each sample's seed."""

from __future__ import annotations

import torch
from torch import Tensor

from mmfm.data.tokenizer import Tokenizer
from mmfm.masking import counter_hash, derive_seed, uniform


def special_ids(tokenizer: Tokenizer, device: torch.device) -> Tensor:
    """[n] int64: the ids that are never masked, nor drawn as replacements."""
    return torch.tensor(tokenizer.special_ids, dtype=torch.int64, device=device)


def corrupt(ids_BL: Tensor, masked_BL: Tensor, mask_seed_B: Tensor, tokenizer: Tokenizer) -> Tensor:
    """Of the masked ids, 80 % become the mask token, 10 % a random word, and 10 % stay.

    What becomes of a token depends on its sample's seed and its position only.

    Raises:
        ValueError: if the tokenizer has no mask token.
    """
    if tokenizer.mask_id is None:
        raise ValueError(
            "the tokenizer has no mask token: use one that has, or leave out the objectives that "
            "mask text"
        )
    device = ids_BL.device
    regular = torch.ones(tokenizer.vocab_size, dtype=torch.bool, device=device)
    regular[special_ids(tokenizer, device)] = False
    words = regular.nonzero()[:, 0]
    positions = torch.arange(ids_BL.shape[1], device=device)
    # Seeds of their own: the draw that chose the positions must not decide what becomes of them.
    chance = uniform(derive_seed(mask_seed_B, 1), positions)
    drawn = counter_hash(derive_seed(mask_seed_B, 2), positions).remainder(len(words))
    ids = ids_BL.masked_fill(masked_BL & (chance < 0.8), tokenizer.mask_id)
    return torch.where(masked_BL & (chance >= 0.8) & (chance < 0.9), words[drawn], ids)
