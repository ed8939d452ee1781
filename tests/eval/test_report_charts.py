"""Ticks, running means and the places of points in the charts of a report."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfm_eval.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    nice_ticks,
    running_mean,
)
from mmfm_eval.report.rows import percent, rows
from mmfm_eval.tasks.base import Score


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_even_and_around_the_data(low: float, span: float) -> None:
    high = low + span
    ticks = nice_ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), span)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 6
    steps = np.diff(ticks)
    assert steps == pytest.approx(steps[0], rel=1e-3, abs=slack)


def test_a_running_mean_is_the_mean_of_neighbours() -> None:
    ys = np.random.default_rng(0).normal(size=50)
    found = running_mean([(float(i), float(y)) for i, y in enumerate(ys)], share=0.1)
    for i, (x, y) in enumerate(found):
        assert x == i
        assert y == pytest.approx(ys[max(i - 2, 0) : i + 3].mean(), abs=1e-12)


def test_points_lie_where_they_should() -> None:
    svg = Chart([(0, 0.0), (5, 2.0), (10, 1.0)], level=0.5, dots=True).svg("<from 0 to 1>")
    dots = re.findall(r'<circle class="dot" cx="([\d.]+)" cy="([\d.]+)"', svg)
    places = [(float(x), float(y)) for x, y in dots]
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    wanted = [(LEFT, bottom), ((LEFT + right) / 2, TOP), (right, (TOP + bottom) / 2)]
    assert places == [pytest.approx(w, abs=0.06) for w in wanted]
    assert 'aria-label="&lt;from 0 to 1&gt;"' in svg
    chance = re.search(r'class="chance"[^>]* y1="([\d.]+)"', svg)
    assert chance is not None
    assert float(chance[1]) == pytest.approx(bottom - (bottom - TOP) / 4, abs=0.06)


def test_a_loss_has_an_axis_of_its_own() -> None:
    score = Score("masked_text_loss", 2.0, 9, (1.5, 2.5), None, 4.0, "unigram")
    (row,) = rows([score])
    assert (row.value, row.interval, row.baseline) == ("2.000", "1.500 – 2.500", "4.000")
    assert row.lower_is_better
    assert row.baseline_at == pytest.approx(100 / 1.05, abs=0.01)
    assert row.at == pytest.approx(50 / 1.05, abs=0.01)
    assert (row.verdict, row.good) == ("beats the baseline", True)


def test_shares_as_people_read_them() -> None:
    shown = [percent(x) for x in (0.0, 0.00081, 0.6021, 1.0)]
    assert shown == ["0.0 %", "0.08 %", "60.2 %", "100.0 %"]
