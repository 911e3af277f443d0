"""The generation that a reader answers from, and the rows of it that this process keeps decoded.

`Position` attaches to the area, moves to the newest generation, and drops the rows that have changed. `Reader` and its
routes share one `Position`: a route that outlives its reader still finds its endpoints and metadata here. One reentrant
lock protects everything: a handler of a signal or a logger may look up in the middle of a change.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import msgspec
from msgspec.structs import astuple

from shmroute.errors import AreaUnreadable, NoAccess, NotReady, SnapshotExpired
from shmroute.kinds import Kind
from shmroute.shm.layout import MAX_GENERATION
from shmroute.shm.reader import RowReader
from shmroute.shm.register import Register
from shmroute.worker import environment
from shmroute.worker.forks import register
from shmroute.worker.lookup import NEVER, Lookup
from shmroute.worker.row_cache import RowCache, make_room

_MAX_ABSENT_NAME: Final = 512
"""Longest name that is remembered as absent, in characters: clients may ask for made-up names of any length."""

_RETRY_NS: Final = 1_000_000_000
"""Nanoseconds until a generation that could not be read is tried again, if no newer one comes: the reason may pass."""

_NANOSECONDS: Final = 1_000_000_000

_ATTEMPTS: Final = 100
"""Maximum attempts to read a row in a newer generation. Before each, the writer has built two whole tables."""

_LISTINGS: Final = 5
"""Maximum attempts to list all rows. One fails only if the writer, at full rate, replaces the table twice meanwhile."""

_MODEL: Final = int(Kind.MODEL)

T = TypeVar("T")
V = TypeVar("V")


class _Served:
    """A look-up to notify of every move. The reference is weak, because the look-up holds the position."""

    __slots__ = ("kind", "lookup", "suspended", "table")

    def __init__(self, lookup: Lookup, kind: int, table: str) -> None:
        self.lookup: Callable[[], Lookup | None] = weakref.ref(lookup)
        self.kind = kind
        self.table = table
        self.suspended = False
        """Whether the table's own row has changed since it was read: the table may have another number now."""


class Position:
    """This process's view of one area.

    Args:
        area: the area's name; None: `SHMROUTE_AREA`, else "default", read at each attach.
        cached_rows: maximum number of decoded rows.
    """

    def __init__(self, area: str | None, cached_rows: int) -> None:
        self.lock = threading.RLock()
        """Held during every change."""
        self.named_area = area
        self.cached_rows = cached_rows
        self.word: memoryview[float] = NEVER
        """The generation word; `NEVER` during a move and while the newest generation cannot be read.

        It equals `seen` if and only if `current` is at the newest generation.
        """
        self.seen = 0.0
        """Value of the generation word at the last move."""
        self.moves = 0
        """Number of moves. A row that was read before a move must not be cached after it."""
        self.closings = 0
        """Number of calls of `leave`; each ends the iterators of `changes`."""
        self.fault: AreaUnreadable | NoAccess | None = None
        """Reason why the newest generation cannot be read; None while it can."""
        self._fault_ns = 0
        self._contact_ns = 0
        """Time of the last contact at the last move without a fault, on the monotonic clock."""
        self._retry_ns = 0
        self.current: RowReader | None = None
        """The row reader, which needs the lock; None if not attached."""
        self.misses = 0
        """Look-ups that found nothing."""
        self.listed = True
        """Whether the register shows this process among the area's workers."""
        self._register: Register | None = None
        self._unsettled = False
        self._former: RowReader | None = None
        """The generation before a move that is not finished yet."""
        self._routes: _Served | None = None
        """The look-up of routes."""
        self._tables: dict[int, _Served] = {}
        """`id` of a table's look-up -> its entry."""
        self._followed = False
        """Whether look-ups may answer by themselves: this is the newest generation, and it could be read."""
        self.parts = RowCache(cached_rows)
        self.absent: dict[str, None] = {}
        """Names that no model has in this generation."""
        self.area_with_endpoints = 0
        """Identity of the area in which the endpoints' first complete list has been seen; 0: none."""
        self.in_child: Callable[[], None] = lambda: None
        """Called in a forked child to reset the endpoints' busy counts."""
        register(self)

    def serve(self, lookup: Lookup, kind: int, table: str = "") -> None:
        """Notify this look-up of every move from now on, and let it answer by itself until the next move.

        Args:
            lookup: must not hold rows of an earlier generation, unless it is served already. The reference is weak.
            kind: the kind of its rows.
            table: the name of the declared table. When that table's own row changes, the look-up is disabled until
                this method is called again.
        """
        with self.lock:
            served = self._routes if kind == _MODEL else self._tables.get(id(lookup))
            if served is None or served.lookup() is not lookup or served.kind != kind:
                served = _Served(lookup, kind, table)
                if kind == _MODEL:
                    self._routes = served
                else:
                    self._tables[id(lookup)] = served
            served.suspended = False
            if self._followed and self.current is not None:
                self._enable(lookup, self.current)

    @property
    def area(self) -> str:
        """The area's name."""
        return self.named_area or environment.area()

    # --- moving --------------------------------------------------------------------------------------------

    def newest(self) -> RowReader:
        """Move to the newest generation and return the row reader.

        Raises:
            NotReady: nothing has been published yet.
            AreaUnreadable, NoAccess: the area cannot be read at all. If only a newer generation cannot be read, `fault`
                says why.
        """
        with self.lock:
            return self.refresh()

    def refresh(self) -> RowReader:
        """Do the same as `newest`. The caller holds the lock."""
        rows = self.current
        if rows is None:
            rows = self.current = RowReader(self.area)
            self._register = Register(self.area) if self.listed else None
        elif self.word[()] == self.seen or (self._retry_ns and self._too_early(rows)):
            return rows
        # Any line here may raise, for instance by a signal handler that enforces a time limit. The next call then finds
        # the move unsettled, and drops everything.
        all_changed, self._unsettled = self._unsettled, True
        self.word = NEVER
        self.moves += 1
        self._followed = False
        routes = self._routes.lookup() if self._routes is not None else None
        tables = self._table_lookups() if self._tables else []
        for _, lookup in tables:
            lookup._disable()
        if routes is not None and not all_changed and (moved := routes._advance(self.absent)) is not None:
            self._settle_along_log(rows, tables, moved)
            return rows
        lookups = self._disabled_lookups(tables)
        if self._former is None:  # else an interrupted move has set it
            self._former = rows.snapshot()
        seen = float(rows.control.head[()])
        fault: AreaUnreadable | NoAccess | None = None
        changed: list[tuple[int, bytes]] | None = []
        try:
            changed = rows.refresh()
        except (AreaUnreadable, NoAccess) as error:
            fault = error
        if changed is None or all_changed:
            self._drop_all(lookups)
        else:
            self._drop(lookups, ((kind, key.decode()) for kind, key in changed))
        if fault is None and not rows.control.retired:
            self.seen = float(rows.generation)
            self._retry_ns = self._fault_ns = 0
            self._contact_ns = rows.control.contact_ns
            self._enable_all(lookups, rows)
        else:
            now_ns = time.monotonic_ns()
            self.seen = seen
            self._retry_ns = now_ns + _RETRY_NS
            self._fault_ns = self._fault_ns or now_ns  # look-ups stay disabled, so that each call comes here
        before, self.fault = self.fault, fault
        self._unsettled = False
        self._former = None
        if self._followed:
            self.word = rows.control.head
        if self._register is not None:
            word = rows.control.head[()]
            stuck_at = int(word) if fault is not None and 0 < word < MAX_GENERATION else 0
            self._register.note(rows.generation, stuck_at, str(fault or ""))
        if fault is not None and str(fault) != str(before):
            import logging  # imported here, since most workers never have a fault

            logging.getLogger(__name__).warning(
                "area %s: answering from generation %d, because newer ones cannot be read: %s",
                self.area,
                rows.generation,
                fault,
            )
        return rows

    def _too_early(self, rows: RowReader) -> bool:
        """Return whether this newest generation could not be read, and is not to be tried again yet."""
        return not self._unsettled and rows.control.head[()] == self.seen and time.monotonic_ns() < self._retry_ns

    def _settle_along_log(
        self,
        rows: RowReader,
        tables: list[tuple[_Served, Lookup]],
        moved: tuple[int, int, list[tuple[int, str]]],
    ) -> None:
        """Finish a move that the native look-up of routes has begun, and has returned as `moved`."""
        generation, end, changed = moved
        if changed:
            if any(kind == Kind.METADATA for kind, _ in changed):
                self._former = rows.snapshot()
            self._drop(tables, changed)
        rows.moved(generation, end)
        self.seen = float(generation)
        self._followed = True
        if tables:
            self._enable_all(tables, rows)
        self._contact_ns = rows.control.contact_ns
        self._unsettled = False
        self._former = None
        self.word = rows.control.head
        if self._register is not None:
            self._register.note(generation, 0, "")

    def leave(self) -> None:
        """Release the mapping and all decoded rows. The next look-up attaches again."""
        with self.lock:
            self.closings += 1
            self.moves += 1
            self._followed = False
            lookups = self._disabled_lookups(self._table_lookups())
            if self._former is None and self.current is not None:
                self._former = self.current.snapshot()
            self._drop_all(lookups)
            self.current = self._former = None
            if self._register is not None:
                self._register.leave()
                self._register = None
            self._unsettled = False
            self.word = NEVER
            self.fault = None
            self._retry_ns = self._fault_ns = self._contact_ns = 0

    def start_in_child(self) -> None:
        """Replace the lock and the endpoints' state, which the child must not share: see `shmroute.worker.forks`."""
        self.lock = threading.RLock()
        if self._register is not None:
            self._register.start_in_child()
        self.parts.drop_all(None, [Kind.ENDPOINTS])
        self.in_child()

    def _table_lookups(self) -> list[tuple[_Served, Lookup]]:
        """Return the look-ups of tables that still exist."""
        lookups = []
        for identity, served in list(self._tables.items()):
            lookup = served.lookup()
            if lookup is None:
                del self._tables[identity]
            else:
                lookups.append((served, lookup))
        return lookups

    def _disabled_lookups(self, tables: list[tuple[_Served, Lookup]]) -> list[tuple[_Served, Lookup]]:
        """Disable the look-ups of routes and of these tables, and return them."""
        routes = self._routes.lookup() if self._routes is not None else None
        lookups = [(self._routes, routes), *tables] if self._routes is not None and routes is not None else tables
        for _, lookup in lookups:
            lookup._disable()
        return lookups

    def _enable_all(self, lookups: list[tuple[_Served, Lookup]], rows: RowReader) -> None:
        self._followed = True
        for served, lookup in lookups:
            if not served.suspended:
                self._enable(lookup, rows)

    def _enable(self, lookup: Lookup, rows: RowReader) -> None:
        segment = rows.segment
        lookup._enable(rows.control.buffer, segment.buffer, astuple(segment.header), rows.end, self.seen)

    def _drop(self, lookups: list[tuple[_Served, Lookup]], changed: Iterable[tuple[int, str]]) -> None:
        by_kind: dict[int, list[Lookup]] = {}
        for served, lookup in lookups:
            by_kind.setdefault(served.kind, []).append(lookup)
        for kind, key in changed:
            for lookup in by_kind.get(kind, ()):
                lookup._drop(key)
            if kind == Kind.MODEL:
                self.absent.pop(key, None)
                continue
            if kind == Kind.METADATA:
                for lookup in by_kind.get(Kind.MODEL, ()):
                    lookup._drop(key.partition("/")[2])  # a route never changes the metadata that it has returned
            elif kind == Kind.TABLES:
                for served, _ in lookups:
                    served.suspended = served.suspended or served.table == key
            self.parts.drop((kind, key), self._last_metadata)

    def _drop_all(self, lookups: list[tuple[_Served, Lookup]]) -> None:
        for served, lookup in lookups:
            lookup._drop_all()
            served.suspended = bool(served.table)
        self.absent.clear()
        self.parts.drop_all(self._last_metadata)

    def _last_metadata(self, key: str) -> bytes | None:
        """Return the value in a METADATA row before the current move; None if it cannot be read any more."""
        from shmroute.worker.metadata import bytes_in

        if self._former is None:
            return None
        try:
            return bytes_in(self._former, key)
        except (AreaUnreadable, SnapshotExpired, msgspec.DecodeError):
            return None

    # --- reading -------------------------------------------------------------------------------------------

    @property
    def rows(self) -> RowReader:
        """The row reader at its current generation, without checking for a newer one. The caller holds the lock."""
        return self.current if self.current is not None else self.refresh()

    @property
    def contact_ns(self) -> int:
        """Monotonic time at which the routes were last known to be in step with every source, in nanoseconds; 0: never.

        Raises:
            NotReady, AreaUnreadable, NoAccess
        """
        contact = self.newest().control.contact_ns
        if self.fault is not None:  # the control block itself may be damaged
            contact = max(self._contact_ns, min(contact, self._fault_ns))
        return contact

    @property
    def age(self) -> float:
        """Seconds since `contact_ns`; infinite before the first time.

        Raises:
            AreaUnreadable, NoAccess: the area cannot be read at all.
        """
        try:
            contact = self.contact_ns
        except NotReady:
            return float("inf")
        return max(0.0, (time.monotonic_ns() - contact) / _NANOSECONDS) if contact else float("inf")

    def snapshot(self) -> RowReader:
        """Return a view of the rows of the newest generation. It stays there when this position moves.

        Raises:
            NotReady, AreaUnreadable, NoAccess
        """
        return self.newest().snapshot()

    def row(self, kind: int, key: str) -> bytes | None:
        """Return the row's bytes in the newest generation. The caller holds the lock.

        Raises:
            NotReady, AreaUnreadable, NoAccess: the row cannot be read. The reason may be that newer generations cannot
                be read (`fault`) while the memory of the current one has been overwritten.
        """
        for _ in range(_ATTEMPTS):
            rows = self.refresh()
            try:
                return rows.get(kind, key)
            except SnapshotExpired:  # the writer has built two new bases since `refresh`
                if self.fault is not None:
                    raise self.fault.with_traceback(None) from None
                if rows.control.retired:
                    break
        raise NotReady(self.area)

    def listing(self, kind: Kind) -> list[tuple[str, bytes]]:
        """Return `(key, value)` of all rows of a kind in one generation. Takes no lock, so a listing delays nobody.

        Raises:
            NotReady, AreaUnreadable, NoAccess: as `row`.
            SnapshotExpired: the writer built two new bases during each attempt.
        """
        for attempt in range(_LISTINGS):
            try:
                return [(key, value) for _, key, value in self.snapshot().rows(kind)]
            except SnapshotExpired:
                if self.fault is not None:
                    raise self.fault.with_traceback(None) from None
                if attempt == _LISTINGS - 1:
                    raise
        raise AssertionError("unreachable")

    def part(self, kind: int, key: str, decode: Callable[[bytes | None], T]) -> T:
        """Return the value that `decode` makes from a row of another kind than MODEL. Cached unless None.

        Raises:
            NotReady, AreaUnreadable, NoAccess
        """
        with self.lock:
            self.refresh()
            part: T | None = self.parts.get((kind, key))
            if part is None:
                moves = self.moves
                part = self.decoded(decode, self.row(kind, key))
                if self.moves == moves and part is not None:
                    self.parts.keep((kind, key), part)
            return part

    def decoded(self, decode: Callable[[V], T], value: V) -> T:
        """Return the value that `decode` makes from a row's bytes.

        Raises:
            AreaUnreadable: the bytes cannot be decoded.
        """
        try:
            return decode(value)
        except msgspec.DecodeError as error:
            raise AreaUnreadable(
                self.area,
                f"a row cannot be decoded ({error}): was it written by another version? Start watcher and workers"
                " with the same version of shmroute",
            ) from error

    def remember_absent(self, name: str) -> None:
        """Note that no model has this name in this generation. The caller holds the lock."""
        if len(name) <= _MAX_ABSENT_NAME:
            make_room(self.absent, self.cached_rows)
            self.absent[name] = None
