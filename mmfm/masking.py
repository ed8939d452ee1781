"""Masks and seeds as pure functions of (seed, counter), the same on every device, rank and
micro-batch size.

Every number comes from splitmix64 (Steele et al., "Fast splittable pseudorandom number generators",
2014) applied to a 64-bit seed and a counter, in integer arithmetic that wraps around. No generator
state exists, so none has to be stored.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """A 64-bit pattern as the int64 that torch can hold."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX1 = _signed(0xBF58476D1CE4E5B9)
_MIX2 = _signed(0x94D049BB133111EB)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: int64 `>>` copies the sign, so the copied bits are cleared."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX1
    x = (x ^ _shift_right(x, 27)) * _MIX2
    return x ^ _shift_right(x, 31)


def counter_hash(seed_B: Tensor, counters_L: Tensor) -> Tensor:
    """Hash of every (seed, counter): int64 [B,L], uniform over all of int64."""
    start_B = _mix(seed_B + _GAMMA)
    return _mix(start_B[:, None] + (counters_L[None, :] + 1) * _GAMMA)


def uniform(seed_B: Tensor, counters_L: Tensor) -> Tensor:
    """Uniform numbers in [0,1) with 53 bits: float64 [B,L]."""
    return _shift_right(counter_hash(seed_B, counters_L), 11).to(torch.float64) * 2.0**-53


def derive_seed(seed_B: Tensor, salt: int) -> Tensor:
    """An independent seed for another use of the same sample: int64 [B]."""
    return _mix(seed_B ^ _mix(torch.tensor(_signed(salt), device=seed_B.device) + _GAMMA))


def salt(text: str) -> int:
    """A 64-bit integer for a use of seeds that has a name (see `derive_seed`)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def mix_ints(*values: int) -> int:
    """One non-negative 63-bit seed from several integers, their order mattering."""
    state = torch.tensor([len(values)])
    for value in values:
        state = _mix((state ^ _signed(value)) + _GAMMA)
    return int(state.item()) & (2**63 - 1)


def seed_dropout(device: torch.device, seed: int) -> None:
    """Seed the generators of the CPU and, where `device` is a GPU, of all GPUs. `torch.manual_seed`
    seeds those of every kind of accelerator, and takes a millisecond for the kinds that aren't
    there.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


def draw_mask(maskable_BL: Tensor, ratio: float, seed_B: Tensor) -> Tensor:
    """Choose ``round(ratio * n)`` of each row's n maskable positions, at least one where n > 0:
    bool [B,L].

    The positions with the lowest hash are chosen, so a row's mask depends on its own seed and
    length only.
    """
    length = maskable_BL.shape[1]
    scores = uniform(seed_B, torch.arange(length, device=maskable_BL.device))
    scores = scores.masked_fill(~maskable_BL, 2.0)
    available = maskable_BL.sum(1)
    wanted = (available * ratio).round().long().clamp(min=1).minimum(available)
    rank_BL = scores.argsort(dim=1, stable=True).argsort(dim=1)
    return rank_BL < wanted[:, None]


def keep_indices(masked_BL: Tensor) -> Tensor:
    """Positions that are not masked, ascending: int64 [B,K], padded with -1 to the longest row."""
    kept_BL = ~masked_BL
    lengths = kept_BL.sum(1)
    width = int(lengths.max()) if lengths.numel() else 0
    order = torch.argsort(masked_BL.to(torch.int8), dim=1, stable=True)[:, :width]
    padding = torch.arange(width, device=masked_BL.device)[None, :] >= lengths[:, None]
    return order.masked_fill(padding, -1)
