"""A table of objects of one kind that have no rules of their own: one row for each object, under its key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from shmroute.resources.custom import CustomObject, InvalidCustomObject
from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import Item, WatchedKind
from shmroute.rows import InvalidRow, RowKey, encode
from shmroute.tables.handler import Announcement
from shmroute.tables.table import RowChanges

__all__ = ["ObjectTable"]


class ObjectTable:
    """A `Table` of `CustomObject`s."""

    def __init__(self, kind: WatchedKind, invalid: RowChanges) -> None:
        self._kind = kind
        self._rows = RowChanges(kind.feeds)
        self._keys: dict[ObjectKey, None] = {}
        self._set_aside: dict[ObjectKey, None] = {}
        self._invalid = invalid

    def replace_all(self, items: Iterable[Item]) -> list[Announcement]:
        """`items` is every object there is."""
        latest = {item.key: item for item in items}
        for item in latest.values():
            self.put(item)
        for key in [key for key in dict.fromkeys(chain(self._keys, self._set_aside)) if key not in latest]:
            self.remove(key)
        return []

    def put(self, item: Item) -> list[Announcement]:
        """An object was added or changed."""
        key = item.key
        if isinstance(item, InvalidCustomObject):
            row = InvalidRow(self._kind.kind, key.namespace, key.name, item.reason, last_good=key in self._keys)
            self._set_aside[key] = None
            self._invalid.set(self._invalid_key(key), encode(row))
            return []
        assert isinstance(item, CustomObject)  # noqa: S101 - the kind's parser returns nothing else
        self._mend(key)
        self._keys[key] = None
        self._rows.set(str(key), item.value)
        return []

    def remove(self, key: ObjectKey) -> list[Announcement]:
        """An object is gone."""
        self._mend(key)
        if self._keys.pop(key, key) is None:
            self._rows.set(str(key), None)
        return []

    def resync(self) -> list[Announcement]:
        """No handler is called for these objects."""
        return []

    def take_changes(self) -> Iterator[tuple[RowKey, bytes | None]]:
        """See `Table`."""
        return self._rows.take_changes()

    def rows(self) -> Iterator[tuple[RowKey, bytes]]:
        """See `Table`."""
        return self._rows.rows()

    def _mend(self, key: ObjectKey) -> None:
        if key in self._set_aside:
            del self._set_aside[key]
            self._invalid.set(self._invalid_key(key), None)

    def _invalid_key(self, key: ObjectKey) -> str:
        return f"{self._kind.kind} {key}"
