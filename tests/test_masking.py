"""The hash against Python integers, its uniformity, masks that depend on seed and row only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from mmfm.masking import (
    counter_hash,
    derive_seed,
    draw_mask,
    keep_indices,
    mix_ints,
    seed_dropout,
    uniform,
)

M = 1 << 64
GAMMA = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % M
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % M
    return x ^ (x >> 31)


def signed(x: int) -> int:
    return x - M if x >= M // 2 else x


SEEDS = [0, 1, -1, 7, 2**63 - 1, -(2**63), 123456789012345678, -987654321]


def test_splitmix64_has_its_published_first_outputs() -> None:
    """Of the generator started at 1234567 (Vigna's splitmix64.c); checks this file's `mix`."""
    state, got = 1234567, []
    for _ in range(3):
        state = (state + GAMMA) % M
        got.append(mix(state))
    assert got == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_counter_hash_equals_big_integers() -> None:
    counters = [0, 1, 2, 1000, 2**40]
    got = counter_hash(torch.tensor(SEEDS), torch.tensor(counters))
    for i, seed in enumerate(SEEDS):
        start = mix((seed + GAMMA) % M)
        want = [signed(mix((start + (c + 1) * GAMMA) % M)) for c in counters]
        assert got[i].tolist() == want


def test_uniform_equals_big_integers() -> None:
    got = uniform(torch.tensor(SEEDS), torch.arange(4))
    bits = counter_hash(torch.tensor(SEEDS), torch.arange(4))
    want = [[((v % M) >> 11) / 2**53 for v in row] for row in bits.tolist()]
    assert got.dtype == torch.float64
    assert got.tolist() == want


def test_derived_seeds_equal_big_integers() -> None:
    for salt in (0, 1, 2**64 - 1, 0xDEADBEEFDEADBEEF):
        want = [signed(mix((s % M) ^ mix((salt + GAMMA) % M))) for s in SEEDS]
        assert derive_seed(torch.tensor(SEEDS), salt).tolist() == want


def test_mix_ints() -> None:
    values = {
        mix_ints(*v) for v in [(), (0,), (0, 0), (1,), (1, 2), (2, 1), (-1,), (2**64 - 2,), (3, 0)]
    }
    assert len(values) == 9
    assert all(0 <= v < 2**63 for v in values)
    assert mix_ints(-1) == mix_ints(2**64 - 1)  # the same 64 bits


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_dropout_is_seeded_as_torch_does_it(device: str) -> None:
    where, ones = torch.device(device), torch.ones(100, device=device)
    torch.manual_seed(7)
    want = torch.nn.functional.dropout(ones), torch.rand(2)
    seed_dropout(where, 7)
    got = torch.nn.functional.dropout(ones), torch.rand(2)
    for a, b in zip(want, got, strict=True):
        assert torch.equal(a, b)


def test_uniform_over_counters_seeds_and_bits() -> None:
    """Chi-square in 64 cells along both axes, and every bit a fair coin; the seeds are fixed."""
    along_counters = uniform(torch.tensor([5]), torch.arange(64_000))[0].numpy()
    along_seeds = uniform(torch.arange(64_000), torch.tensor([3]))[:, 0].numpy()
    for values in (along_counters, along_seeds):
        cells = np.bincount((values * 64).astype(int), minlength=64)
        assert stats.chisquare(cells).pvalue > 1e-3
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.015
    assert abs(np.corrcoef(along_counters, along_seeds)[0, 1]) < 0.015
    bits = counter_hash(torch.arange(300), torch.arange(100)).numpy().ravel().view(np.uint64)
    for bit in range(64):
        share = ((bits >> np.uint64(bit)) & np.uint64(1)).mean()
        assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(len(bits))


def rows(lengths: list[int], width: int) -> torch.Tensor:
    return torch.arange(width)[None, :] < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("ratio", [0.15, 0.3, 0.5, 0.75, 0.99])
def test_exact_counts(ratio: float) -> None:
    lengths = list(range(30))
    masked = draw_mask(rows(lengths, 30), ratio, torch.arange(30) + 100)
    want = [min(n, max(1, round(ratio * n))) for n in lengths]
    assert masked.sum(1).tolist() == want
    assert not (masked & ~rows(lengths, 30)).any()


def test_every_position_is_as_likely() -> None:
    """The first and last position too, and positions that are not maskable never."""
    maskable = torch.ones(6000, 12, dtype=torch.bool)
    maskable[:, [0, 7]] = False
    masked = draw_mask(maskable, 0.4, torch.arange(6000))
    counts = masked.sum(0)
    assert counts[[0, 7]].tolist() == [0, 0]
    free = np.delete(counts.numpy(), [0, 7])
    # Without replacement counts vary less than in a chi-square test: the safe side.
    assert stats.chisquare(free).pvalue > 1e-3
    together = (masked[:, 1] & masked[:, 2]).sum().item() / 6000
    assert together == pytest.approx(4 / 10 * 3 / 9, abs=0.02)


def test_a_mask_depends_on_its_own_seed_and_row_only() -> None:
    seeds = torch.tensor([9, 8, 7])
    whole = draw_mask(rows([5, 9, 12], 12), 0.5, seeds)
    for i, n in enumerate([5, 9, 12]):
        for width in (n, 12, 40):  # padding to any width
            alone = draw_mask(rows([n], width), 0.5, seeds[i : i + 1])
            assert alone[0, :n].equal(whole[i, :n])
            assert not alone[0, n:].any()
    swapped = draw_mask(rows([12, 9, 5], 12), 0.5, seeds.flip(0))
    assert swapped.flip(0).equal(whole)
    assert not draw_mask(rows([12], 12), 0.5, torch.tensor([10]))[0].equal(
        draw_mask(rows([12], 12), 0.5, torch.tensor([11]))[0]
    )


def test_higher_ratios_hide_more_of_the_same() -> None:
    few, many = (draw_mask(rows([40] * 5, 40), r, torch.arange(5)) for r in (0.3, 0.6))
    assert not (few & ~many).any()


def test_keep_indices() -> None:
    masked = torch.tensor([[True, False, False, True], [False, True, True, True], [True] * 4])
    assert keep_indices(masked).tolist() == [[1, 2], [0, -1], [-1, -1]]
    assert keep_indices(torch.zeros(2, 3, dtype=torch.bool)).tolist() == [[0, 1, 2]] * 2
    assert keep_indices(torch.ones(2, 3, dtype=torch.bool)).shape == (2, 0)
    assert keep_indices(torch.zeros(0, 3, dtype=torch.bool)).shape == (0, 0)
    long = draw_mask(rows([200] * 3, 200), 0.75, torch.arange(3))
    kept = keep_indices(long)
    for i in range(3):
        assert kept[i].tolist() == (~long[i]).nonzero()[:, 0].tolist()
