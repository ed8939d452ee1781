"""Cells of tables: found by name, and read as texts, numbers and times.

The ValueErrors' messages are reasons for which a sample is left out.
"""

from __future__ import annotations

import ast
import difflib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any

from mmfm_prep.errors import PrepError

MISSING = object()
_IN_BRACES = re.compile(r"\{([^{}]*)\}")
_LATEST = 1e11  # seconds: the year 5138; what is more counts milliseconds, or still less


def find(value: Any, name: str) -> Any:
    """What `name` leads to in objects and lists, dot by dot; `MISSING` where there is no such name.

    In a list a number is a place; any other name is looked up in each item.
    """
    if isinstance(value, dict):
        if name in value:
            return value[name]
        head, dot, rest = name.partition(".")
        if not dot or head not in value:
            return MISSING
        return None if value[head] is None else find(value[head], rest)
    if isinstance(value, list):
        head, dot, rest = name.partition(".")
        if head.isdecimal():
            if int(head) >= len(value):
                return None
            return find(value[int(head)], rest) if dot else value[int(head)]
        items = [found for item in value if (found := find(item, name)) is not MISSING]
        return items or MISSING
    return MISSING


def selected(row: Mapping[str, Any], columns: Collection[str]) -> dict[str, Any]:
    """`columns` ▶ their cells; None where there is none."""
    found = {name: row[name] if name in row else find(row, name) for name in columns}
    return {name: None if value is MISSING else value for name, value in found.items()}


def names_of(rows: Iterable[Any]) -> list[str]:
    """The names that lead to something in `rows`, those inside of objects with their dots."""
    names: dict[str, None] = {}
    for row in rows:
        for name, value in row.items() if isinstance(row, dict) else ():
            names[name] = None
            one = value[0] if isinstance(value, list) and value else value
            if isinstance(one, dict):
                names |= {f"{name}.{inner}": None for inner in one}
    return list(names)


def no_column(place: str, name: str, there: Collection[str], what: str = "column") -> str:
    """The message for a name that isn't there, with the nearest that is."""
    near = difflib.get_close_matches(name, there, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(there)}"
    return f"{place}: there is no {what} {name!r}; {hint}"


def parsed(value: Any, place: str) -> Any:
    """The JSON or Python list in a cell that is a string; PrepError where it is neither."""
    if not isinstance(value, str) or not value.strip():
        return value
    try:
        return json.loads(value)
    except ValueError:
        pass
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise PrepError(f"{place}: neither JSON nor a Python list: {value[:40]}") from None


def named_by(column: str) -> list[str]:
    """The column, or those in its braces."""
    return _IN_BRACES.findall(column) or [column]


def cell(row: Mapping[str, Any], column: str) -> Any:
    """The cell of a column, or what is made of those in braces: ``{id}.jpg``; "" where one of them
    is empty.
    """
    names = _IN_BRACES.findall(column)
    if not names:
        return row[column]
    cells = {name: text(row[name]) for name in names}
    return _IN_BRACES.sub(lambda found: cells[found[1]], column) if all(cells.values()) else ""


def text(value: Any) -> str:
    """A cell as text; "" where it is empty (NaN is what pandas writes for that)."""
    if isinstance(value, str):
        return value.strip()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value).strip()


def texts(value: Any) -> list[str]:
    """The texts of a cell, which may be a list of them, or of lists."""
    if isinstance(value, list):
        return [found for item in value for found in texts(item)]
    return [text(value)]


def one_text(value: Any, what: str) -> str:
    """A cell, or a list of at most one, as text."""
    if isinstance(value, list):
        if len(value) > 1:
            raise ValueError(f"{what} has several values")
        value = value[0] if value else None
    return text(value)


def number(value: Any, what: str, decimal_comma: bool = False) -> float | None:
    """A cell as a number, 1.234,5 with a `decimal_comma`; None where it is empty."""
    told = text(value)
    if not told:
        return None
    if decimal_comma and isinstance(value, str):
        told = told.replace(".", "").replace(",", ".")
    try:
        found = float(told)
    except ValueError:
        hint = ": decimal_comma=true?" if "," in told else ""
        raise ValueError(f"{what} is no number{hint}") from None
    if not math.isfinite(found):
        raise ValueError(f"{what} is not finite")
    return found


def dated(value: Any, pattern: str | None) -> Any:
    """A cell as a date by a `pattern` of `strptime`; as it is where it is empty, or there is no
    pattern.
    """
    told = text(value)
    if not told or pattern is None:
        return value
    try:
        return datetime.strptime(told, pattern)
    except ValueError:
        raise ValueError(f"time is not as time_format = {pattern!r} has it") from None


def moment(value: Any) -> float | None:
    """A cell as seconds since 1970; None where it is empty.

    Numbers are seconds (those too large for it milliseconds, microseconds, nanoseconds), all else
    is an ISO date, in UTC where it names no zone.
    """
    told = text(value)
    if not told:
        return None
    if isinstance(value, datetime):
        return _seconds(value)
    if isinstance(value, date):
        return _seconds(datetime(value.year, value.month, value.day))
    try:
        seconds = float(told)
    except ValueError:
        try:
            return _seconds(datetime.fromisoformat(told))
        except ValueError:
            raise ValueError(
                "time is neither a number nor an ISO date: time_format says what it is"
            ) from None
    if not math.isfinite(seconds):
        raise ValueError("time is not finite")
    while abs(seconds) > _LATEST:
        seconds /= 1000
    return seconds


def _seconds(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
