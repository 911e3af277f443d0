"""What each table does: objects of one kind in, rows and calls for handlers out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import Item
from shmroute.rows import RowKey
from shmroute.tables.handler import Announcement

__all__ = ["RowChanges", "Table"]


class Table(Protocol):
    """The objects of one kind and the rows made of them.

    The rows are a function of the objects, never of the order of events (an exception says so where it is made).
    """

    def replace_all(self, items: Iterable[Item]) -> list[Announcement]:
        """`items` is every object there is."""

    def put(self, item: Item) -> list[Announcement]:
        """An object was added or changed."""

    def remove(self, key: ObjectKey) -> list[Announcement]:
        """An object is gone."""

    def resync(self) -> list[Announcement]:
        """Announcements that hand every object to the handlers again."""

    def take_changes(self) -> Iterator[tuple[RowKey, bytes | None]]:
        """Rows touched since the last call, None for one that is gone.

        Rows that did not change are left out as far as that is cheap: it saves work further on. What is published is
        decided by `Publisher`, which compares each row with the one in the area.
        """

    def rows(self) -> Iterator[tuple[RowKey, bytes]]:
        """All rows as they are now, whether or not the changes have been taken."""


class RowChanges:
    """Rows of one kind by key, with those that changed since `take_changes`."""

    def __init__(self, kind: int) -> None:
        self._kind = kind
        self._rows: dict[str, bytes] = {}
        self._before: dict[str, bytes | None] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: str) -> bytes | None:
        """The row as it is now."""
        return self._rows.get(key)

    def set(self, key: str, row: bytes | None) -> None:
        """`row` is the row of `key` from now on; None: there is none."""
        before = self._rows.get(key)
        if before == row:
            return
        self._before.setdefault(key, before)
        if row is None:
            del self._rows[key]
        else:
            self._rows[key] = row

    def take_changes(self) -> Iterator[tuple[RowKey, bytes | None]]:
        """Rows that differ from what they were at the last call; None for a row that is gone."""
        touched, self._before = self._before, {}
        for key, before in touched.items():
            row = self._rows.get(key)
            if row != before:
                yield (self._kind, key), row

    def rows(self) -> Iterator[tuple[RowKey, bytes]]:
        """All rows as they are now."""
        for key, row in self._rows.items():
            yield (self._kind, key), row
