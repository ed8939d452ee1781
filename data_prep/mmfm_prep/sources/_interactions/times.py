"""Times as they stand in tables ▶ microseconds since 1970, exact integers throughout: as 32-bit
floats, the times of a whole minute are one.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from mmfm_prep.tables.cells import text

SECOND = 1_000_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LATEST = 100_000_000_000  # seconds: the year 5138
# What is later in a unit is meant in the next: milliseconds, microseconds, nanoseconds.
_UNITS = [(_LATEST * 1000**power, Decimal(SECOND) / 1000**power) for power in range(4)]


def microseconds(value: Any) -> int:
    """A number of seconds since 1970 (one too large for it: of milliseconds, or still less), an ISO
    date or time, or a date of Parquet, in UTC where it names no zone ▶ microseconds since 1970.
    ValueError where it is none.
    """
    if isinstance(value, date):
        return _of_date(value)
    if isinstance(value, bool):
        raise ValueError("time is neither a number nor an ISO date")
    told = text(value)
    if told.isascii() and told.isdigit() and len(told) <= 11:  # nearly all: quick
        return int(told) * SECOND
    if not told:
        raise ValueError("time is empty")
    try:
        return _of_number(Decimal(told))
    except InvalidOperation:
        pass
    try:
        return _of_date(datetime.fromisoformat(told))
    except ValueError:
        raise ValueError(
            "time is neither a number nor an ISO date: time_format says what it is"
        ) from None


def seconds(micro: int) -> int | float:
    """Whole seconds as an integer, others exact to the microsecond."""
    return micro // SECOND if micro % SECOND == 0 else micro / SECOND


def _of_number(number: Decimal) -> int:
    if not number.is_finite():
        raise ValueError("time is not finite")
    for latest, unit in _UNITS:
        if abs(number) <= latest:
            return int(number * unit // 1)
    raise ValueError("time is beyond the year 5138")


def _of_date(value: date) -> int:
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return (value - _EPOCH) // _MICROSECOND
