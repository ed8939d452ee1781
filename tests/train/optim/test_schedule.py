"""Learning-rate schedules: the ends, the warm-up, and torch's own cosine."""

from __future__ import annotations

import pytest
import torch

from mmfm.train.optim.schedule import lr_factor


def test_warm_up_rises_in_equal_parts_to_the_full_rate() -> None:
    for schedule in ("cosine", "constant"):
        got = [lr_factor(schedule, s, 100, 4, 0.0) for s in range(5)]
        assert got == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_constant_stays() -> None:
    assert {lr_factor("constant", s, 10, 0, 0.3) for s in range(20)} == {1.0}


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_starts_at_one_and_ends_in_the_last_step(final: float) -> None:
    got = [lr_factor("cosine", s, 50, 10, final) for s in range(60)]
    assert got[10] == 1.0
    assert got[49] == pytest.approx(final, abs=1e-12)
    assert got[10:] == sorted(got[10:], reverse=True)
    assert got[50:] == [pytest.approx(final, abs=1e-12)] * 10  # beyond the end it stays there
    middle = (got[29] + got[30]) / 2
    assert middle == pytest.approx((1 + final) / 2, abs=1e-3)


def test_cosine_equals_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=29, eta_min=0.05)
    for step in range(30):
        want = optimizer.param_groups[0]["lr"]
        assert lr_factor("cosine", step, 30, 0, 0.05) == pytest.approx(want, rel=1e-6)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_wsd_stays_and_then_falls_as_one_minus_the_square_root(final: float) -> None:
    got = [lr_factor("wsd", s, 100, 5, final, 16) for s in range(110)]
    assert got[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert set(got[5:84]) == {1.0}
    for n in range(1, 17):  # Hägele et al., eq. 2, with n of the 16 last steps taken
        want = final + (1 - final) * (1 - (n / 16) ** 0.5)
        assert got[83 + n] == pytest.approx(want, abs=1e-12)
    assert got[99] == pytest.approx(final, abs=1e-12)
    assert got[100:] == [pytest.approx(final, abs=1e-12)] * 10


@pytest.mark.parametrize(("max_steps", "warmup"), [(1, 0), (1, 1), (2, 1), (3, 5), (5, 5)])
def test_short_runs_stay_between_zero_and_one(max_steps: int, warmup: int) -> None:
    for step in range(max_steps + 2):
        assert 0 < lr_factor("cosine", 0, max_steps, warmup, 0.0) <= 1
        assert 0 <= lr_factor("cosine", step, max_steps, warmup, 0.0) <= 1
