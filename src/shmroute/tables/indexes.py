"""The indexes of a declared table: for each value of an index, the keys of the rows that have it.

Used by `shmroute.tables.declared` only. The keys of one value are spread over several rows, called buckets, so that a
change writes a few small rows however many keys share the value. `shmroute.rows.bucket_of` says which bucket.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from shmroute.rows import RowKey, bucket_key, bucket_of, encode

BUCKET_KEYS: Final = 16
"""Average number of keys in a bucket of an index. A change writes at most four buckets for any size of the entry."""


class TableIndexes:
    """All indexes of one table. An entry is the text of one index and one value (`shmroute.rows.index_value`).

    Args:
        kind: number of the index rows.
    """

    def __init__(self, kind: int) -> None:
        self._kind = kind
        self._entries: dict[str, _Entry] = {}
        self._touched: dict[tuple[str, int], None] = {}
        """Entries and buckets that have changed since the last `take_changes`."""

    def move(self, row_key: str, before: Sequence[str], after: Sequence[str]) -> None:
        """Move a row from the entries `before` to the entries `after`."""
        for entry in before:
            if entry not in after:
                for bucket in self._entries[entry].remove(row_key):
                    self._touched[entry, bucket] = None
                if not self._entries[entry].count:
                    del self._entries[entry]
        for entry in after:
            if entry not in before:
                for bucket in self._entries.setdefault(entry, _Entry()).add(row_key):
                    self._touched[entry, bucket] = None

    def take_changes(self) -> Iterator[tuple[RowKey, bytes | None]]:
        """Yield each bucket that has changed since the last call; None for a removed one."""
        touched, self._touched = self._touched, {}
        for entry, bucket in touched:
            yield self._row(entry, bucket)

    def rows(self) -> Iterator[tuple[RowKey, bytes]]:
        """Yield all buckets."""
        for entry, found in self._entries.items():
            for bucket in range(len(found.buckets)):
                key, row = self._row(entry, bucket)
                if row is not None:
                    yield key, row

    def _row(self, entry: str, bucket: int) -> tuple[RowKey, bytes | None]:
        found = self._entries.get(entry)
        row = None
        if found is not None and bucket < len(found.buckets):
            keys = sorted(found.buckets[bucket])
            row = encode((len(found.buckets), keys)) if bucket == 0 else encode(keys)
        return (self._kind, bucket_key(entry, bucket)), row


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
