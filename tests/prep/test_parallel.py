"""Work on all cores keeps its order and its errors."""

from __future__ import annotations

import math

import pytest

from mmfm_prep.parallel import ordered_map


def test_results_are_in_order() -> None:
    assert list(ordered_map(math.sqrt, range(50), chunk=4)) == [math.sqrt(i) for i in range(50)]
    assert list(ordered_map(math.sqrt, [], chunk=4)) == []


def test_an_error_comes_through() -> None:
    with pytest.raises(ValueError, match="math domain"):
        list(ordered_map(math.sqrt, [1, 4, -1, 9], chunk=1))
