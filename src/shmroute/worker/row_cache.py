"""Decoded rows of every kind but models: at most so many, dropped when their row changes.

Routes hold some of them too (endpoints, metadata), so each of these learns that it is out of date when its row changes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Container
from itertools import islice
from typing import Any, Final

from shmroute.rows import Kind

__all__ = ["CACHED_ROWS", "RowCache", "make_room"]

CACHED_ROWS: Final = 131_072
"""Rows that a worker keeps decoded, about 0.5 KiB each: a bound, and room for every hot set we have met."""

_EVICTED_FRACTION: Final = 8
"""A full cache drops its oldest eighth at once: dropping one row at a time would walk the dict's dead entries."""

_HELD_BY_ROUTES: Final = (Kind.ENDPOINTS, Kind.METADATA)
"""Kinds whose decoded rows are kept by routes too, and must learn that they are out of date."""

CacheKey = tuple[int, str]
"""`(kind, key)` of a row."""


def make_room(cache: dict[Any, Any], limit: int) -> None:
    """Drop the oldest entries of a full cache."""
    if len(cache) >= limit:
        for key in list(islice(cache, max(1, limit // _EVICTED_FRACTION))):
            cache.pop(key, None)


class RowCache:
    """At most `limit` decoded rows by kind and key. Called with the position's lock held."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: dict[CacheKey, Any] = {}
        self._held: weakref.WeakValueDictionary[CacheKey, Any] = weakref.WeakValueDictionary()
        """Those that routes may hold: what a full cache has dropped must still learn that its row has changed."""

    def get(self, key: CacheKey) -> Any:
        """What was decoded of that row, or None."""
        part = self._kept.get(key)
        return self._held.get(key) if part is None else part

    def keep(self, key: CacheKey, part: Any) -> None:
        """Remember what was decoded of that row."""
        make_room(self._kept, self._limit)
        self._kept[key] = part
        if key[0] in _HELD_BY_ROUTES:
            self._held[key] = part

    def drop(self, key: CacheKey, last_metadata: Callable[[str], bytes | None] | None) -> None:
        """Forget what was decoded of that row, and tell the routes that hold it.

        Args:
            key: of the row that has changed.
            last_metadata: gives the bytes that a METADATA row had before it changed. A route that holds that row keeps
                giving out the value that belongs to its version, and gets a copy, so that it keeps no segment alive.
        """
        kind, name = key
        if kind in _HELD_BY_ROUTES:
            part = self._held.get(key)
            if part is not None:
                part.stale = True
                del part
                self._kept.pop(key, None)
                part = self._held.get(key)  # only if a route holds it
            if part is not None and kind == Kind.METADATA and last_metadata is not None:
                part.keep(last_metadata(name))
            self._held.pop(key, None)
        self._kept.pop(key, None)

    def drop_all(
        self, last_metadata: Callable[[str], bytes | None] | None, kinds: Container[int] | None = None
    ) -> None:
        """`drop` every row, or those of some kinds."""
        for key in {*self._kept, *self._held}:
            if kinds is None or key[0] in kinds:
                self.drop(key, last_metadata)
