"""The interface of a table: it takes objects of one kind, and returns rows and calls for handlers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import Item
from shmroute.rows import RowKey
from shmroute.tables.handler import Announcement


class WantedMetadata(NamedTuple):
    """The metadata that a row of a declared table wants."""

    namespace: str
    """Namespace of the object that the row is made from."""
    key: str
    """Key in the metadata store."""
    version: str


class Table(Protocol):
    """The objects of one kind and the rows made of them.

    The rows depend on the objects, never on the order of events (each exception is documented at its code).
    """

    def replace_all(self, items: Iterable[Item]) -> list[Announcement]:
        """Replace all objects by `items`."""

    def put(self, item: Item) -> list[Announcement]:
        """Add or change an object."""

    def remove(self, key: ObjectKey) -> list[Announcement]:
        """Remove an object."""

    def resync(self) -> list[Announcement]:
        """Return announcements that pass every object to the handlers again."""

    def take_changes(self) -> Iterator[tuple[RowKey, bytes | None]]:
        """Return the rows touched since the last call; None for a removed row.

        Unchanged rows are left out as far as that is cheap, which saves later work. `Publisher` decides which rows to
        publish: it compares each row with the one in the area.
        """

    def rows(self) -> Iterator[tuple[RowKey, bytes]]:
        """Return all current rows, whether or not their changes have been taken."""


class RowChanges:
    """Rows of one kind by key, and those that changed since `take_changes`."""

    def __init__(self, kind: int) -> None:
        self._kind = kind
        self._rows: dict[str, bytes] = {}
        self._before: dict[str, bytes | None] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: str) -> bytes | None:
        """Return the current row; None if there is none."""
        return self._rows.get(key)

    def set(self, key: str, row: bytes | None) -> None:
        """Set the row of `key`; None removes it."""
        before = self._rows.get(key)
        if before == row:
            return
        self._before.setdefault(key, before)
        if row is None:
            del self._rows[key]
        else:
            self._rows[key] = row

    def take_changes(self) -> Iterator[tuple[RowKey, bytes | None]]:
        """Yield the rows that have changed since the last call; None for a removed row."""
        touched, self._before = self._before, {}
        for key, before in touched.items():
            row = self._rows.get(key)
            if row != before:
                yield (self._kind, key), row

    def rows(self) -> Iterator[tuple[RowKey, bytes]]:
        """Yield all current rows."""
        for key, row in self._rows.items():
            yield (self._kind, key), row
