"""The error that a user of the data preparation can cause and mend; the command ends with it and
code 2.
"""

from __future__ import annotations


class PrepError(ValueError):
    """What was wrong, where, and what to do, in one line."""
