"""What a reader keeps decoded besides routes: bounded, told to routes that hold it, dropped when its row changes."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec

from shmroute.errors import AreaUnreadable
from shmroute.rows import Kind
from shmroute.worker.metadata import bytes_in

if TYPE_CHECKING:
    from shmroute.shm.reader import RowReader

__all__ = ["MEMO_ROWS", "Parts", "make_room"]

MEMO_ROWS: Final = 131_072
"""Rows a worker keeps decoded, about 0.5 KiB each: a bound, and room for every hot set we have met."""

_EVICTED_FRACTION: Final = 8
"""A full memo lets go of its oldest eighth at once: dropping one row at a time would walk the dict's dead entries."""

_HELD_BY_ROUTES: Final = (Kind.ENDPOINTS, Kind.METADATA)
"""Kinds whose decoded rows are kept by routes too, and must be told when they are out of date."""

PartKey = tuple[int, str]
"""`(kind, key)` of a row."""


def make_room(memo: dict[Any, Any], limit: int) -> None:
    """Let the oldest entries of a full memo go."""
    if len(memo) >= limit:
        for key in list(islice(memo, max(1, limit // _EVICTED_FRACTION))):
            memo.pop(key, None)


class Parts:
    """Decoded rows other than models', by row, at most `limit` of them. With the reader's lock held."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: dict[PartKey, Any] = {}
        self._held: weakref.WeakValueDictionary[PartKey, Any] = weakref.WeakValueDictionary()
        """Those that routes hold too: what fell out of a full memo must still be told when it changes."""

    def get(self, key: PartKey) -> Any:
        """What was decoded of that row, or None."""
        part = self._kept.get(key)
        return self._held.get(key) if part is None else part

    def keep(self, key: PartKey, part: Any) -> None:
        """Remember what was decoded of that row."""
        make_room(self._kept, self._limit)
        self._kept[key] = part
        if key[0] in _HELD_BY_ROUTES:
            self._held[key] = part

    def forget(self, key: PartKey, former: RowReader | None) -> None:
        """Drop what was decoded of that row, and tell routes that hold it.

        What they hold of metadata is copied from `former`'s generation: it goes on giving out the value that belongs to
        its version, and must not keep a whole segment from being freed for it.
        """
        kind, name = key
        if kind in _HELD_BY_ROUTES:
            part = self._held.get(key)
            if part is not None:
                part.stale = True
                del part
                self._kept.pop(key, None)
                part = self._held.get(key)  # only if a route holds it
            if part is not None and kind == Kind.METADATA and former is not None:
                try:
                    part.keep(bytes_in(former, name))
                except (AreaUnreadable, msgspec.DecodeError):  # damaged, and gone for good
                    part.keep(None)
            self._held.pop(key, None)
        self._kept.pop(key, None)

    def forget_all(self, former: RowReader | None, kinds: Iterable[int] = tuple(Kind)) -> None:
        """`forget` every row of those kinds."""
        for key in {*self._kept, *self._held}:
            if key[0] in kinds:
                self.forget(key, former)
