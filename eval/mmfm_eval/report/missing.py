"""How a part of the page says that something has not been made yet."""

from __future__ import annotations


class Missing(Exception):  # noqa: N818 - it is no error: the page says what to run
    """Something that a panel shows has not been made yet; the text says what to run."""
