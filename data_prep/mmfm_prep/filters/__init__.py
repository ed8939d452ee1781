"""What may go into the shards: a filter refuses a sample or a part of it, with a reason to count."""

from __future__ import annotations


class Unwanted(ValueError):
    """Refused by a filter. Its message is a short reason that is the same for all it befalls."""
