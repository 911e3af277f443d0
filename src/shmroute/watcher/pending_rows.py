"""Collects the rows to publish, decides when they may be published, and counts the results.

Used by the owner thread alone; its only I/O is that of the given `Publisher`. Knows which rows wait and whether the
first snapshot is complete; never knows where events come from.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, TypeAlias

import msgspec

from shmroute.errors import AreaUnavailable, AreaUnreadable
from shmroute.resources.registry import WatchedKind
from shmroute.rows import Kind, RowKey, SettingsRow, TableRow, encode, table_kinds
from shmroute.shm.writing.publisher import Publisher

_log = logging.getLogger(__name__)

PUBLISH_RETRY_SECONDS: Final = 1.0
"""Seconds between two attempts to publish rows that shared memory had no room for."""

DEFINITIONS: Final[RowKey] = (int(Kind.SETTINGS), "tables")
"""Key of the row with the definitions of the declared tables, by name."""

OPTIONAL_GRACE_SECONDS: Final = 5.0
"""Longest wait of the first snapshot for kinds that are not required, once the required ones are complete."""


LoadAllRows: TypeAlias = Callable[[Publisher, Mapping[RowKey, bytes | None]], dict[RowKey, bytes | None]]
"""Returns all rows, to publish a damaged area anew. The mapping holds the rows that wait to be published."""


class PendingRows:
    """Rows that wait to be published into an area.

    Args:
        area: the area's name, for messages.
        settings: the watcher's settings, published with the first snapshot.
        kinds: the watched kinds. The first snapshot waits for the complete lists of those that are `awaited`.
        all_rows: see `LoadAllRows`.
        clock: returns monotonic nanoseconds.
    """

    def __init__(
        self,
        area: str,
        settings: SettingsRow,
        kinds: Iterable[WatchedKind],
        all_rows: LoadAllRows,
        clock: Callable[[], int],
    ) -> None:
        self._area = area
        self._settings = settings
        self._unsynced = {kind.name: kind for kind in kinds}
        self._former: dict[str, tuple[int, ...]] = {}
        """Watched kind whose complete list is missing -> kinds of its former rows, which stay published until then.

        They are rows of a former watcher, or of a table that was declared anew.
        """
        self._former_tables: set[str] = set()
        """Names of the tables among them whose former rows are complete."""
        self._outdated: set[int] = set()
        """Kinds of former rows that the next publication removes: the new rows are complete, or the table is gone."""
        self._definitions: bytes | None = None
        self._all_rows = all_rows
        self._clock = clock
        self._unpublished: dict[RowKey, bytes | None] = {}
        self._damaged = False
        """Whether all rows must be published again because the area is damaged."""
        self._required_synced_ns = 0
        self._retry_at_ns = 0
        self._oldest_received_ns = 0
        self.complete = False
        """Whether the first snapshot has been published."""
        self.problem = ""
        """Reason why the newest rows are not published; "" while they are."""
        self.publishes = self.failures = self.propagations = 0
        self.seconds = self.propagation_seconds = self.propagation_seconds_sum = 0.0

    @property
    def due(self) -> bool:
        """Whether there is something to publish."""
        return bool(self._unpublished) or not self.complete

    def add(self, rows: Mapping[RowKey, bytes | None]) -> None:
        """Queue changed rows; the value None removes a row."""
        self._unpublished.update(rows)

    def declare(self, kind: WatchedKind, replaced: WatchedKind | None) -> None:
        """Add a table that is declared while the watcher runs. `replaced` is the former table of the same name.

        The published rows of the former table stay until the complete list of the new one has arrived.
        """
        if replaced is not None:
            if self.complete and kind.name not in self._unsynced:
                self._former[kind.name] = replaced.row_kinds
                self._former_tables.add(kind.name)
            else:
                self._forget_waiting(replaced.row_kinds)
        self._unsynced[kind.name] = kind

    def remove(self, kind: WatchedKind) -> None:
        """Remove a table that is no longer declared. The next publication removes its rows."""
        self._unsynced.pop(kind.name, None)
        self._former_tables.discard(kind.name)
        numbers = (*kind.row_kinds, *self._former.pop(kind.name, ()))
        self._forget_waiting(numbers)
        self._outdated.update(numbers)

    def set_definitions(self, row: bytes | None) -> None:
        """Set the row with the definitions of the declared tables; None: there are no tables."""
        self._definitions = row
        if self.complete:
            self._unpublished[DEFINITIONS] = row

    def _forget_waiting(self, numbers: Collection[int]) -> None:
        self._unpublished = {key: row for key, row in self._unpublished.items() if key[0] not in numbers}

    def synced(self, resource: str) -> None:
        """Note that a resource's complete list has arrived."""
        self._unsynced.pop(resource, None)
        self._outdated.update(self._former.pop(resource, ()))
        self._former_tables.discard(resource)

    def received(self, at_ns: int) -> None:
        """Note when a change arrived (0: unknown). Propagation time is measured from the oldest waiting change."""
        self._oldest_received_ns = self._oldest_received_ns or at_ns

    def row(self, publisher: Publisher, key: RowKey) -> bytes | None:
        """Return the newest value of a row, published or waiting to be."""
        return self._unpublished[key] if key in self._unpublished else publisher.get(*key)

    def publish(self, publisher: Publisher) -> None:
        """Publish the waiting rows, if they may be published now. A refusal (no room, no access) leads to a retry.

        A damaged area is published anew.
        """
        now_ns = self._clock()
        if now_ns < self._retry_at_ns or not self._may_publish(now_ns):
            return
        started = time.perf_counter()
        before = publisher.generation
        held_back = self._held_back()
        try:
            if self.complete and not self._damaged:
                for key, _ in publisher.rows_of(self._outdated):
                    self._unpublished.setdefault(key, None)
                publisher.publish({key: value for key, value in self._unpublished.items() if key not in held_back})
            else:
                publisher.replace(self._complete_table(publisher))
        except AreaUnavailable as error:
            if isinstance(error, AreaUnreadable) and not self._damaged:
                _log.error("area %s is damaged, all rows are published anew: %s", self._area, error)
                self._damaged = True
                self._unpublished = self._all_rows(publisher, self._unpublished)
                self.publish(publisher)
                return
            self.failures += 1
            self._retry_at_ns = now_ns + int(PUBLISH_RETRY_SECONDS * 1e9)
            if not self.problem:
                _log.error("%s", error)
            self.problem = str(error)
            return
        if self.problem:
            _log.info("area %s: there is room again, generation %d is published", self._area, publisher.generation)
        self.problem = ""
        self._outdated.clear()
        self.complete = True
        self._damaged = False
        self._unpublished = {key: self._unpublished[key] for key in held_back}
        if publisher.generation != before:
            self._count(time.perf_counter() - started)
        self._oldest_received_ns = 0

    def _count(self, seconds: float) -> None:
        self.publishes += 1
        self.seconds += seconds
        if self._oldest_received_ns:
            self.propagation_seconds = (self._clock() - self._oldest_received_ns) / 1e9
            self.propagation_seconds_sum += self.propagation_seconds
            self.propagations += 1

    def _may_publish(self, now_ns: int) -> bool:
        """Return whether the first snapshot is complete. Before that, a former watcher's rows stay."""
        if self.complete or not self._unsynced:
            return True
        awaited = [kind for kind in self._unsynced.values() if kind.awaited]
        if any(kind.required for kind in awaited):
            return False
        if not awaited:
            return True
        self._required_synced_ns = self._required_synced_ns or now_ns
        return now_ns - self._required_synced_ns >= OPTIONAL_GRACE_SECONDS * 1e9

    def _held_back(self) -> set[RowKey]:
        """Return the rows that must wait for the complete list of their kind. Until then the former rows stay.

        Otherwise endpoints would become unknown before the slices have been listed.
        """
        if not self._unsynced:
            return set()
        unknown = {number for kind in self._unsynced.values() for number in kind.row_kinds}
        tables = {(int(Kind.TABLES), name) for name in self._former_tables}
        return {key for key in self._unpublished if key[0] in unknown or key in tables}

    def _complete_table(self, publisher: Publisher) -> dict[RowKey, bytes]:
        """Return all rows. A kind whose complete list is still missing has a former watcher's rows.

        The index began empty, so the rows that changed since then are all its rows.
        """
        table = {key: row for key, row in self._unpublished.items() if row is not None}
        table[Kind.SETTINGS, ""] = encode(self._settings)
        if self._definitions is not None:
            table[DEFINITIONS] = self._definitions
        kept: dict[str, tuple[int, ...]] = {}
        for kind in self._unsynced.values():
            former = _former_table(publisher, kind)
            numbers = kind.row_kinds
            if former is not None:
                numbers = table_kinds(former)
                self._former_tables.add(kind.name)
                row = publisher.get(Kind.TABLES, kind.name)
                assert row is not None  # noqa: S101 - `former` comes from it
                table[Kind.TABLES, kind.name] = row
            kept[kind.name] = numbers
        unknown = {number for numbers in kept.values() for number in numbers}
        table = {key: row for key, row in table.items() if key[0] not in unknown}
        former_rows = dict(publisher.rows_of(unknown))
        found = {number for number, _ in former_rows}
        self._former.update({name: numbers for name, numbers in kept.items() if not found.isdisjoint(numbers)})
        return table | former_rows


def _former_table(publisher: Publisher, kind: WatchedKind) -> int | None:
    """Return the number under which a former watcher has published the complete table; None if it has not."""
    row = publisher.get(Kind.TABLES, kind.name)
    if row is None:
        return None
    try:
        table = msgspec.msgpack.decode(row, type=TableRow)
    except msgspec.MsgspecError:
        return None
    return table.number if table.ready else None
