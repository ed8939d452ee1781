"""What may go into the shards: a filter refuses what isn't wanted, with a reason to count."""

from __future__ import annotations


class Unwanted(ValueError):  # noqa: N818  # a decision, not an error
    """Refused by a filter. Its message is a short reason that is the same for all it befalls."""
