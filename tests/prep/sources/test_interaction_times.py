"""Times of tables: exact, whatever they are written as."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfm_prep.sources._interactions.times import microseconds, seconds


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("881250949", 881250949),
        (" 881250949 ", 881250949),
        (881250949, 881250949),
        ("881250949.0", 881250949),
        ("8.8125E8", 881250000),
        (881250949.5, 881250949.5),
        ("1617235200123", 1617235200.123),
        ("1617235200123456", 1617235200.123456),
        ("-5", -5),
        ("1617235200123456789", 1617235200.123456),
        (1617235200000, 1617235200),
        ("1.6172352E12", 1617235200),
        ("2024-02-29", 1709164800),
        ("2024-02-29T12:00:00Z", 1709208000),
        ("2024-02-29 12:00:00.25+02:00", 1709200800.25),
        (date(2024, 2, 29), 1709164800),
        (datetime(2024, 2, 29), 1709164800),
        (datetime(2024, 2, 29, tzinfo=UTC), 1709164800),
    ],
)
def test_times(value: Any, found: float) -> None:
    assert seconds(microseconds(value)) == found


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "time is empty"),
        ("", "time is empty"),
        (True, "neither a number nor an ISO date"),
        ("yesterday", "neither a number nor an ISO date"),
        ("2024-02-30", "neither a number nor an ISO date"),
        (float("nan"), "time is empty"),
        ("nan", "not finite"),
        ("inf", "not finite"),
        ("1e999", "beyond the year 5138"),
        ("9" * 5000, "beyond the year 5138"),
    ],
)
def test_what_is_no_time(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        microseconds(value)


@given(st.integers(-(10**11), 10**11), st.sampled_from(["{}", "{}.0", "{}.000000"]))
def test_seconds_are_exact(number: int, form: str) -> None:
    found = seconds(microseconds(form.format(number)))
    assert found == number
    assert isinstance(found, int)
