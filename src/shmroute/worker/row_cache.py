"""A bounded cache of decoded rows of all kinds but MODEL. An entry is dropped when its row changes.

Routes hold some entries too (endpoints, metadata); those are marked as stale when their row changes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Container
from itertools import islice
from typing import Any, Final

from shmroute.kinds import Kind

CACHED_ROWS: Final = 131_072
"""Largest number of rows that a worker keeps decoded, about 0.5 KiB each: enough for every hot set we have met."""

_EVICTED_FRACTION: Final = 8
"""A full cache drops its oldest eighth at once: dropping rows one by one would walk the dict's deleted entries."""

_HELD_BY_ROUTES: Final = (Kind.ENDPOINTS, Kind.METADATA)
"""Kinds whose decoded rows are held by routes too, and must be marked as stale."""

CacheKey = tuple[int, str]
"""`(kind, key)` of a row."""


def make_room(cache: dict[Any, Any], limit: int) -> None:
    """Drop the oldest entries of a full cache."""
    if len(cache) >= limit:
        for key in list(islice(cache, max(1, limit // _EVICTED_FRACTION))):
            cache.pop(key, None)


class RowCache:
    """Holds at most `limit` decoded rows, by kind and key. All methods need the position's lock."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: dict[CacheKey, Any] = {}
        self._held: weakref.WeakValueDictionary[CacheKey, Any] = weakref.WeakValueDictionary()
        """Decoded rows that routes may hold. Even one that a full cache has dropped must be marked as stale."""

    def get(self, key: CacheKey) -> Any:
        """Return the decoded row, or None."""
        part = self._kept.get(key)
        return self._held.get(key) if part is None else part

    def keep(self, key: CacheKey, part: Any) -> None:
        """Put a decoded row into the cache."""
        make_room(self._kept, self._limit)
        self._kept[key] = part
        if key[0] in _HELD_BY_ROUTES:
            self._held[key] = part

    def drop(self, key: CacheKey, last_metadata: Callable[[str], bytes | None] | None) -> None:
        """Drop a decoded row, and mark it as stale for the routes that hold it.

        Args:
            key: key of the row that has changed.
            last_metadata: returns the bytes that a METADATA row had before it changed. A route that holds that row must
                keep returning the value of its version; it gets a copy, so that it keeps no segment alive.
        """
        kind, name = key
        if kind in _HELD_BY_ROUTES:
            part = self._held.get(key)
            if part is not None:
                part.stale = True
                del part
                self._kept.pop(key, None)
                part = self._held.get(key)  # still there only if a route holds it
            if part is not None and kind == Kind.METADATA and last_metadata is not None:
                part.keep(last_metadata(name))
            self._held.pop(key, None)
        self._kept.pop(key, None)

    def drop_all(
        self, last_metadata: Callable[[str], bytes | None] | None, kinds: Container[int] | None = None
    ) -> None:
        """Drop all rows, or all rows of `kinds`, as `drop` does."""
        for key in {*self._kept, *self._held}:
            if kinds is None or key[0] in kinds:
                self.drop(key, last_metadata)
