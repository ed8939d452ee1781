"""A small cache that forgets what was not used for longest.

``cache = Lru(64); cache.get(key, lambda: build(key))``. Unlike `functools.lru_cache` it belongs to
one object, can be sent to a worker process (it arrives empty), and is safe to use from several
threads (a value may then be built twice).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Lru(Generic[V]):
    """At most `limit` values by key."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._values: OrderedDict[Hashable, V] = OrderedDict()

    def get(self, key: Hashable, build: Callable[[], V]) -> V:
        """The value of `key`, from `build` if it is not held."""
        try:
            value = self._values[key]
            self._values.move_to_end(key)
            return value
        except KeyError:  # not held, or dropped by another thread between the two lines
            value = build()
        self._values[key] = value
        while len(self._values) > self.limit:
            try:
                self._values.popitem(last=False)
            except KeyError:  # another thread emptied it
                break
        return value

    def __len__(self) -> int:
        return len(self._values)

    def __reduce__(self) -> tuple[type[Lru[V]], tuple[int]]:
        return Lru, (self.limit,)
