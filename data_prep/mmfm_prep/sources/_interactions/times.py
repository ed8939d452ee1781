"""Times as they stand in tables ▶ microseconds since 1970, exact integers throughout: as 32-bit
floats, the times of a whole evening are one.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

Unit = Literal["s", "ms", "us"]
UNITS: dict[Unit, int] = {"s": 1_000_000, "ms": 1_000, "us": 1}
SECOND = UNITS["s"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_BEYOND = 100_000_000_000 * SECOND  # the year 5138
_FAR = Decimal(10 * _BEYOND)


def microseconds(value: Any, unit: Unit) -> int:
    """A number of `unit`s since 1970, an ISO 8601 date or time (UTC where it says no zone), or a
    date of Parquet ▶ microseconds since 1970. ValueError where it is none.
    """
    if isinstance(value, str):
        found = _of_text(value.strip(), unit)
    elif isinstance(value, int) and not isinstance(value, bool):
        found = value * UNITS[unit]
    elif isinstance(value, float):
        found = _of_text(repr(value), unit)
    elif isinstance(value, date):
        found = _of_date(value)
    else:
        raise ValueError("time is empty" if value is None else "time is neither number nor date")
    if abs(found) > _BEYOND:
        raise ValueError("time is beyond the year 5138: are these other units (time_unit)?")
    return found


def seconds(micro: int) -> int | float:
    """Whole seconds as an integer, others exact to the microsecond."""
    return micro // SECOND if micro % SECOND == 0 else micro / SECOND


def _of_text(text: str, unit: Unit) -> int:
    try:
        return int(text) * UNITS[unit]
    except ValueError:  # or so many digits that Python refuses
        pass
    if not text:
        raise ValueError("time is empty")
    try:
        number = Decimal(text)
    except InvalidOperation:
        pass
    else:
        if not number.is_finite():
            raise ValueError("time is not finite")
        return round(max(-_FAR, min(number, _FAR)) * UNITS[unit])
    try:
        return _of_date(datetime.fromisoformat(text))
    except ValueError:
        raise ValueError("time is neither number nor date") from None


def _of_date(value: date) -> int:
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return (value - _EPOCH) // _MICROSECOND
