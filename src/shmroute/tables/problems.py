"""The INVALID rows: the objects that are set aside, with the reason. A limited number for each namespace.

Used by all tables. One tenant's 100,000 broken objects must not fill the area with their reasons.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Final

from shmroute.rows import InvalidRow, Kind, RowKey, encode
from shmroute.tables.table import RowChanges

MAX_LISTED: Final = 1_000
"""Maximum number of reasons listed for one namespace, the first by key; one more row counts the rest. About 0.5 MB."""


class Problems:
    """INVALID rows by namespace and key, and those that changed since `take_changes`."""

    def __init__(self) -> None:
        self._shown = RowChanges(int(Kind.INVALID))
        self._all: dict[str, dict[str, bytes]] = {}
        self._order: dict[str, list[str]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Return the number of all rows, listed or not."""
        return self._count

    def set(self, namespace: str, key: str, row: bytes | None) -> None:
        """Set the row of `key`; None removes it. A key belongs to one namespace."""
        rows = self._all.get(namespace, {})
        known = key in rows
        if row is None and not known:
            return
        order = self._order.setdefault(namespace, [])
        if row is None:
            del rows[key], order[bisect_left(order, key)]
            self._shown.set(key, None)
            self._count -= 1
            if len(order) >= MAX_LISTED:  # an unlisted row takes the free place, if the removed one was listed
                self._shown.set(order[MAX_LISTED - 1], rows[order[MAX_LISTED - 1]])
        else:
            self._all.setdefault(namespace, rows)[key] = row
            if not known:
                insort(order, key)
                self._count += 1
            if len(order) <= MAX_LISTED or key <= order[MAX_LISTED - 1]:
                self._shown.set(key, row)
            if len(order) > MAX_LISTED:
                self._shown.set(order[MAX_LISTED], None)
        self._tell_rest(namespace, len(order) - MAX_LISTED)
        if not order:
            del self._all[namespace], self._order[namespace]

    def _tell_rest(self, namespace: str, count: int) -> None:
        row = None
        if count > 0:
            reason = f"{count} more objects of the namespace are set aside; the first {MAX_LISTED} are listed"
            row = encode(InvalidRow("Namespace", "", namespace, reason, last_good=False))
        self._shown.set(f"Namespace {namespace}", row)

    def take_changes(self) -> Iterator[tuple[RowKey, bytes | None]]:
        """Return the rows that have changed since the last call; None for a removed row."""
        return self._shown.take_changes()

    def rows(self) -> Iterator[tuple[RowKey, bytes]]:
        """Return all current rows."""
        return self._shown.rows()
