"""A declared table: rows of objects of any kind, by key, with indexes.

Used by `shmroute.tables.tables` only. The rules are those of AppModels: of several objects that claim one key the
oldest wins, an object that cannot be a row is listed with its reason, and its last valid state is still served. What is
beyond the share of a namespace or the table's limits is listed too, and is served once there is room
(`shmroute.tables.shares`).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final, TypeAlias

import msgspec

from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import Item
from shmroute.resources.table import TableKind
from shmroute.resources.table_parser import InvalidTableObject, TableObject
from shmroute.rows import ConflictRow, InvalidRow, RowKey, TableRow, encode, table_kinds
from shmroute.tables.handler import Announcement
from shmroute.tables.indexes import TableIndexes
from shmroute.tables.problems import Problems
from shmroute.tables.shares import Share, Shares
from shmroute.tables.table import RowChanges, WantedMetadata

MAX_LISTED_LOSERS: Final = 100
"""Maximum number of losers named in one CONFLICT row, as for models."""

Claim: TypeAlias = tuple[str, str, ObjectKey]
"""An object as a claimant of a key: creation time, time first seen, identity. Sorts the oldest first."""

_UNLIMITED: Final = 1 << 62


class DeclaredTable:
    """A `Table` of `TableObject`s.

    Args:
        kind: what is watched, and the table's number.
        problems: gets a row for each object that cannot be a row, or has no room.
        conflicts: gets a row for each key that several objects claim.
        directory: gets the table's own row.
        share: what the objects of one namespace may take; None for no limit.
        announces: whether a handler wants to know of the objects.
    """

    def __init__(
        self,
        kind: TableKind,
        problems: Problems,
        conflicts: RowChanges,
        directory: RowChanges,
        *,
        share: Share | None = None,
        announces: bool = False,
    ) -> None:
        self.kind = kind
        self.shares = Shares(share)
        limits = kind.definition.limits
        self._limits = limits
        self._whole = Shares(
            Share(limits.objects or _UNLIMITED, _UNLIMITED, limits.bytes or _UNLIMITED) if limits else None
        )
        """The table's own limits: a share of all objects that have room in their namespaces."""
        self._limited = share is not None or limits is not None
        self._arrived: dict[ObjectKey, TableObject] = {}
        """Valid objects of the current event."""
        self._announces = announces
        self._announcements: list[Announcement] = []
        self._objects: dict[ObjectKey, TableObject] = {}
        """The last valid state of every object."""
        self._claims: dict[str, list[Claim]] = {}
        self._set_aside: dict[ObjectKey, str] = {}
        """Reasons of the objects whose current state cannot be a row."""
        self._beyond: dict[ObjectKey, str] = {}
        """Reasons of the valid objects that have no room."""
        self._listed: set[ObjectKey] = set()
        """Objects of either kind: each has an INVALID row."""
        self._rows = RowChanges(kind.feeds)
        self._indexes = TableIndexes(table_kinds(kind.feeds)[1])
        self._touched_metadata: dict[str, None] = {}
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
        return self._settle()

    def put(self, item: Item) -> list[Announcement]:
        """Add or change an object."""
        self._put(item)
        return self._settle()

    def remove(self, key: ObjectKey) -> list[Announcement]:
        """Remove an object."""
        self._remove(key)
        return self._settle()

    def resync(self) -> list[Announcement]:
        """Return announcements that pass every object to the handlers again."""
        if not self._announces:
            return []
        served = (item for key, item in self._objects.items() if key not in self._beyond)
        return [Announcement("update", item, item, self.kind.name) for item in served]

    def close(self) -> list[Announcement]:
        """Remove the table's entries from the shared listings, since it is no longer declared.

        Returns the announcements that its objects are gone. The publisher removes the table's own rows.
        """
        for key in self._listed:
            self._problems.set(key.namespace, self._invalid_key(key), None)
        for row_key, claims in self._claims.items():
            if len(claims) > 1:
                self._conflicts.set(f"{self.kind.name}:{row_key}", None)
        self._directory.set(self.kind.name, None)
        served = (item for key, item in self._objects.items() if key not in self._beyond)
        return [Announcement("delete", item, None, self.kind.name) for item in served] if self._announces else []

    def _put(self, item: Item) -> None:
        key = item.key
        if isinstance(item, InvalidTableObject):
            self._set_aside[key] = item.reason
            self._note_invalid(key)
            return
        assert isinstance(item, TableObject)  # noqa: S101 - the kind's parser returns nothing else
        self._set_aside.pop(key, None)
        self._arrived[key] = item
        if self._limited:
            self.shares.put(key.namespace, key, claim_of(item), _weight(item))

    def _remove(self, key: ObjectKey) -> None:
        self._set_aside.pop(key, None)
        self.shares.remove(key.namespace, key)
        self._whole.remove("", key)
        old = self._objects.pop(key, None)
        if self._beyond.pop(key, None) is None:
            self._exchange(old, None)
        self._note_invalid(key)

    def _settle(self) -> list[Announcement]:
        """End an event: serve the objects that have room, and update the table's own row."""
        for key, reason in self._decided().items():
            new = self._arrived.get(key) or self._objects[key]
            served = self._objects.get(key) if key not in self._beyond else None
            self._exchange(served, None if reason else new)
            self._objects[key] = new
            if reason:
                self._beyond[key] = reason
            else:
                self._beyond.pop(key, None)
            self._note_invalid(key)
        self._arrived.clear()
        self._show_table()
        announcements, self._announcements = self._announcements, []
        return announcements

    def _decided(self) -> dict[ObjectKey, str]:
        """Return the objects that have come or may have moved: why each has no room, "" for one that has room."""
        if not self._limited:
            return dict.fromkeys(self._arrived, "")
        touched = dict.fromkeys(chain(self._arrived, (key for key, _ in self.shares.settle())))
        for key in touched:
            if self.shares.fits(key):
                item = self._arrived.get(key) or self._objects[key]
                self._whole.put("", key, claim_of(item), _weight(item))
            else:
                self._whole.remove("", key)
        touched.update(dict.fromkeys(key for key, _ in self._whole.settle()))
        return {key: self._reason(key) for key in touched}

    def _reason(self, key: ObjectKey) -> str:
        if not self.shares.fits(key):
            return self.shares.reason(key.namespace, f"table {self.kind.name}")
        if not self._whole.fits(key):
            return f"set aside: the table is full ({self._limit_words}), and older objects come first"
        return ""

    @property
    def _limit_words(self) -> str:
        limits = self._limits
        each = (("objects", limits.objects), ("bytes", limits.bytes)) if limits is not None else ()
        return ", ".join(f"limits.{name}: {limit}" for name, limit in each if limit is not None)

    def _note_invalid(self, key: ObjectKey) -> None:
        """Set or remove the INVALID row of an object, as its state requires."""
        reason, row = self._set_aside.get(key) or self._beyond.get(key), None
        if reason is None:
            if key not in self._listed:
                return
            self._listed.discard(key)
        else:
            self._listed.add(key)
            name = f"{self.kind.name} ({self.kind.full_name})"
            last_good = key in self._objects and key not in self._beyond
            row = encode(InvalidRow(name, key.namespace, key.name, reason, last_good))
        self._problems.set(key.namespace, self._invalid_key(key), row)

    def _exchange(self, old: TableObject | None, new: TableObject | None) -> None:
        """Replace one state of an object by another among the claimants. None: the object has no such state."""
        self._announce(old, new)
        if old is not None and (new is None or (old.row_key, claim_of(old)) != (new.row_key, claim_of(new))):
            self._let_go(old)
            old = None
        if new is None:
            return
        if old is None:
            self._claim(new)
            return
        if self._claims[new.row_key][0] == claim_of(new):
            self._show(new.row_key, old, new)

    def _announce(self, old: TableObject | None, new: TableObject | None) -> None:
        if not self._announces or (old is None and new is None):
            return
        if old is not None and new is not None:
            if msgspec.structs.replace(old, resource_version=new.resource_version) != new:
                self._announcements.append(Announcement("update", old, new, self.kind.name))
            return
        self._announcements.append(Announcement("add" if old is None else "delete", old, new, self.kind.name))

    def _claim(self, new: TableObject) -> None:
        claims = self._claims.setdefault(new.row_key, [])
        before = self._objects[claims[0][2]] if claims else None
        insort(claims, claim_of(new))
        if claims[0] == claim_of(new):
            self._show(new.row_key, before, new)
        if before is not None:
            self._note_conflict(new.row_key, claims, len(claims) == 2)

    def _let_go(self, old: TableObject) -> None:
        claims = self._claims[old.row_key]
        first = claims[0] == claim_of(old)
        del claims[bisect_left(claims, claim_of(old))]
        if first:
            self._show(old.row_key, old, self._objects[claims[0][2]] if claims else None)
        if claims:
            self._conflict_count -= len(claims) == 1
            self._note_conflict(old.row_key, claims, False)
        else:
            del self._claims[old.row_key]

    def _note_conflict(self, row_key: str, claims: list[Claim], new: bool) -> None:
        self._conflict_count += new
        row = None
        if len(claims) > 1:
            winner, *losers = (str(claim[2]) for claim in claims[: MAX_LISTED_LOSERS + 1])
            row = encode(ConflictRow(row_key, "", winner, tuple(losers), len(claims) - 1, self.kind.name))
        self._conflicts.set(f"{self.kind.name}:{row_key}", row)

    def _show(self, row_key: str, old: TableObject | None, new: TableObject | None) -> None:
        """Make the row of `row_key` from `new` instead of `old`; None: no object has this row."""
        self._rows.set(row_key, new.value if new is not None else None)
        if (old.metadata if old is not None else None) != (new.metadata if new is not None else None):
            self._touched_metadata[row_key] = None
        self._indexes.move(row_key, old.index if old is not None else (), new.index if new is not None else ())

    def _invalid_key(self, key: ObjectKey) -> str:
        return f"{self.kind.name}: {key}"

    def _show_table(self) -> None:
        definition = self.kind.definition
        row = TableRow(
            number=self.kind.feeds,
            resource=definition.resource,
            ready=self._ready,
            rows=self.row_count,
            indexes=tuple(definition.index),
            conflicts=self._conflict_count,
            invalid=len(self._listed),
        )
        self._directory.set(self.kind.name, encode(row))

    @property
    def row_count(self) -> int:
        """Number of rows of the table."""
        return len(self._rows)

    def object_of(self, row_key: str) -> ObjectKey | None:
        """Return the object that the row of this key is made from. Any thread may ask: one instruction reads it."""
        claims = self._claims.get(row_key, ())
        return next((claim[2] for claim in claims), None)

    @property
    def full(self) -> str:
        """Number of objects beyond the table's limits, as a sentence; "" for none."""
        count = sum(count for _, count in self._whole.crowded)
        if not count:
            return ""
        return f"table {self.kind.name} is full ({self._limit_words}): {count} of the youngest objects are set aside"

    # --- rows out ------------------------------------------------------------------------------------------

    def take_changes(self) -> Iterator[tuple[RowKey, bytes | None]]:
        """See `Table`."""
        yield from self._rows.take_changes()
        yield from self._indexes.take_changes()

    def take_metadata(self) -> Iterator[tuple[RowKey, WantedMetadata | None]]:
        """Yield each row whose metadata key or version has changed since the last call, with both; None if removed.

        The row's metadata is published under the yielded key.
        """
        touched, self._touched_metadata = self._touched_metadata, {}
        for row_key in touched:
            claims = self._claims.get(row_key)
            yield (table_kinds(self.kind.feeds)[2], row_key), self._wanted(claims) if claims else None

    def metadata(self) -> Iterator[tuple[RowKey, WantedMetadata]]:
        """Yield the metadata key and version of every row that has them."""
        for row_key, claims in self._claims.items():
            if (wanted := self._wanted(claims)) is not None:
                yield (table_kinds(self.kind.feeds)[2], row_key), wanted

    def _wanted(self, claims: list[Claim]) -> WantedMetadata | None:
        winner = self._objects[claims[0][2]]
        return WantedMetadata(winner.key.namespace, *winner.metadata) if winner.metadata is not None else None

    def rows(self) -> Iterator[tuple[RowKey, bytes]]:
        """See `Table`."""
        yield from self._rows.rows()
        yield from self._indexes.rows()


def claim_of(item: TableObject) -> Claim:
    """Return an object as a claimant of a key. Sorts by the conflict rule: the oldest first."""
    return item.created, item.first_seen, item.key


def _weight(item: TableObject) -> Share:
    """Return what an object takes of a share or of the table's limits."""
    return Share(1, 0, len(item.row_key.encode(errors="surrogatepass")) + len(item.value))
