"""A declared table: rows of objects of any kind, by key, with indexes.

Used only by `shmroute.tables.tables`. The rules are those of AppModels: if several objects claim one key, the
oldest wins; an object that cannot be a row is listed with its reason, and its last valid state is still served.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final, TypeAlias

from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import Item
from shmroute.resources.table import InvalidTableObject, TableKind, TableObject
from shmroute.rows import ConflictRow, InvalidRow, RowKey, TableRow, bucket_key, bucket_of, encode
from shmroute.tables.handler import Announcement
from shmroute.tables.problems import Problems
from shmroute.tables.table import RowChanges

__all__ = ["DeclaredTable"]

BUCKET_KEYS: Final = 16
"""Average number of keys in a bucket of an index. A change writes at most four buckets, whatever the entry's size."""

MAX_LISTED_LOSERS: Final = 100
"""Maximum number of losers named in one CONFLICT row, as for models."""

_Claim: TypeAlias = tuple[str, str, ObjectKey]
"""An object as a claimant of a key: creation time, time first seen, identity. Sorts by the conflict rule."""


class DeclaredTable:
    """A `Table` of `TableObject`s.

    Args:
        kind: the watched kind, with the table's number.
        problems: gets a row for each object that cannot be a row.
        conflicts: gets a row for each key that several objects claim.
        directory: gets the table's own row.
    """

    def __init__(self, kind: TableKind, problems: Problems, conflicts: RowChanges, directory: RowChanges) -> None:
        self._kind = kind
        self._objects: dict[ObjectKey, TableObject] = {}
        self._claims: dict[str, list[_Claim]] = {}
        self._set_aside: dict[ObjectKey, None] = {}
        self._rows = RowChanges(kind.feeds)
        self._entries: dict[str, _Entry] = {}
        self._touched_buckets: dict[tuple[str, int], None] = {}
        self._problems = problems
        self._conflicts = conflicts
        self._directory = directory
        self._conflict_count = 0
        self._ready = False
        self._settle()

    # --- events in -----------------------------------------------------------------------------------------

    def replace_all(self, items: Iterable[Item]) -> list[Announcement]:
        """Replace all objects by `items`."""
        latest = {item.key: item for item in items}
        for item in latest.values():
            self._put(item)
        for key in [key for key in dict.fromkeys(chain(self._objects, self._set_aside)) if key not in latest]:
            self._remove(key)
        self._ready = True
        self._settle()
        return []

    def put(self, item: Item) -> list[Announcement]:
        """Add or change an object."""
        self._put(item)
        self._settle()
        return []

    def remove(self, key: ObjectKey) -> list[Announcement]:
        """Remove an object."""
        self._remove(key)
        self._settle()
        return []

    def resync(self) -> list[Announcement]:
        """Return nothing: no handler is called for these objects."""
        return []

    def _put(self, item: Item) -> None:
        key = item.key
        old = self._objects.get(key)
        if isinstance(item, InvalidTableObject):
            name = f"{self._kind.name} ({self._kind.full_name})"
            row = InvalidRow(name, key.namespace, key.name, item.reason, last_good=old is not None)
            self._set_aside[key] = None
            self._problems.set(key.namespace, self._invalid_key(key), encode(row))
            return
        assert isinstance(item, TableObject)  # noqa: S101 - the kind's parser returns nothing else
        self._mend(key)
        self._exchange(old, item)
        self._objects[key] = item

    def _remove(self, key: ObjectKey) -> None:
        self._mend(key)
        old = self._objects.pop(key, None)
        if old is not None:
            self._exchange(old, None)

    def _exchange(self, old: TableObject | None, new: TableObject | None) -> None:
        """Replace `old` by `new`, two states of one object; None before it exists or after it is removed."""
        if old is not None and (new is None or (old.row_key, _claim(old)) != (new.row_key, _claim(new))):
            self._let_go(old)
            old = None
        if new is None:
            return
        if old is None:
            self._claim(new)
            return
        if self._claims[new.row_key][0] == _claim(new):
            self._show(new.row_key, old, new)

    def _claim(self, new: TableObject) -> None:
        claims = self._claims.setdefault(new.row_key, [])
        before = self._objects[claims[0][2]] if claims else None
        insort(claims, _claim(new))
        if claims[0] == _claim(new):
            self._show(new.row_key, before, new)
        self._note_conflict(new.row_key, claims, len(claims) == 2)

    def _let_go(self, old: TableObject) -> None:
        claims = self._claims[old.row_key]
        first = claims[0] == _claim(old)
        del claims[bisect_left(claims, _claim(old))]
        if first:
            self._show(old.row_key, old, self._objects[claims[0][2]] if claims else None)
        self._conflict_count -= len(claims) == 1
        self._note_conflict(old.row_key, claims, False)
        if not claims:
            del self._claims[old.row_key]

    def _note_conflict(self, row_key: str, claims: list[_Claim], new: bool) -> None:
        self._conflict_count += new
        row = None
        if len(claims) > 1:
            winner, *losers = (str(claim[2]) for claim in claims[: MAX_LISTED_LOSERS + 1])
            row = encode(ConflictRow(row_key, "", winner, tuple(losers), len(claims) - 1, self._kind.name))
        self._conflicts.set(f"{self._kind.name}:{row_key}", row)

    def _show(self, row_key: str, old: TableObject | None, new: TableObject | None) -> None:
        """Make the row of `row_key` from `new` instead of `old`; None: no object has this row."""
        self._rows.set(row_key, new.value if new is not None else None)
        before = old.index if old is not None else ()
        after = new.index if new is not None else ()
        for entry in before:
            if entry not in after:
                for bucket in self._entries[entry].remove(row_key):
                    self._touched_buckets[entry, bucket] = None
                if not self._entries[entry].count:
                    del self._entries[entry]
        for entry in after:
            if entry not in before:
                for bucket in self._entries.setdefault(entry, _Entry()).add(row_key):
                    self._touched_buckets[entry, bucket] = None

    def _mend(self, key: ObjectKey) -> None:
        if key in self._set_aside:
            del self._set_aside[key]
            self._problems.set(key.namespace, self._invalid_key(key), None)

    def _invalid_key(self, key: ObjectKey) -> str:
        return f"{self._kind.name}: {key}"

    def _settle(self) -> None:
        """End an event: update the table's own row."""
        definition = self._kind.definition
        row = TableRow(
            number=self._kind.feeds,
            resource=definition.resource,
            ready=self._ready,
            rows=len(self._rows),
            indexes=tuple(definition.index),
            conflicts=self._conflict_count,
            invalid=len(self._set_aside),
        )
        self._directory.set(self._kind.name, encode(row))

    # --- rows out ------------------------------------------------------------------------------------------

    def take_changes(self) -> Iterator[tuple[RowKey, bytes | None]]:
        """See `Table`."""
        yield from self._rows.take_changes()
        touched, self._touched_buckets = self._touched_buckets, {}
        for entry, bucket in touched:
            yield self._bucket_row(entry, bucket)

    def rows(self) -> Iterator[tuple[RowKey, bytes]]:
        """See `Table`."""
        yield from self._rows.rows()
        for entry, found in self._entries.items():
            for bucket in range(len(found.buckets)):
                key, row = self._bucket_row(entry, bucket)
                if row is not None:
                    yield key, row

    def _bucket_row(self, entry: str, bucket: int) -> tuple[RowKey, bytes | None]:
        found = self._entries.get(entry)
        row = None
        if found is not None and bucket < len(found.buckets):
            keys = sorted(found.buckets[bucket])
            row = encode((len(found.buckets), keys)) if bucket == 0 else encode(keys)
        return (self._kind.feeds + 1, bucket_key(entry, bucket)), row


class _Entry:
    """The keys of the rows that share one value of one index, in buckets by linear hashing.

    Adding a key splits at most one bucket, and removing one merges at most two: a change at a value with
    100,000 rows writes only a few small rows.
    """

    def __init__(self) -> None:
        self.buckets: list[set[str]] = [set()]
        self.count = 0

    def add(self, key: str) -> set[int]:
        """Add a key. Return the buckets that have changed."""
        bucket = bucket_of(key, len(self.buckets))
        self.buckets[bucket].add(key)
        self.count += 1
        if self.count <= BUCKET_KEYS * len(self.buckets):
            return {bucket}
        new = len(self.buckets)
        split = new - (1 << (new.bit_length() - 1))
        keys = self.buckets[split]
        self.buckets.append(set())
        moved = {each for each in keys if bucket_of(each, new + 1) == new}
        keys -= moved
        self.buckets[new] |= moved
        return {0, bucket, split, new}

    def remove(self, key: str) -> set[int]:
        """Remove a key. Return the buckets that have changed."""
        bucket = bucket_of(key, len(self.buckets))
        self.buckets[bucket].discard(key)
        self.count -= 1
        last = len(self.buckets) - 1
        if not last or self.count > BUCKET_KEYS // 2 * last:
            return {bucket}
        keys = self.buckets.pop()
        into = last - (1 << (last.bit_length() - 1))
        self.buckets[into] |= keys
        return {0, bucket, into, last}


def _claim(item: TableObject) -> _Claim:
    return item.created, item.first_seen, item.key
