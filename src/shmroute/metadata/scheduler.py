"""Decides which keys are read, when, and what an answer means. Pure: no I/O, no threads, the time is an argument.

The rules:

* Each request is read once. The caller (`shmroute.watcher.metadata_feed`) makes requests only for rows whose key or
  version has changed.
* A request carries a ticket. A newer request for the same row replaces the older one, and an answer to the older one
  is dropped.
* A missing value is read again (`retry_delays.key_delay`); a value that is too large only on `retry`.
* The number of rows limits the memory.

Called by `shmroute.metadata.loader`, under its lock.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from shmroute.metadata.own_version import own_version
from shmroute.metadata.retry_delays import key_delay
from shmroute.metadata.store import Absent, Found
from shmroute.rows import MetadataState, RowKey

NOT_READ: Final = "not read yet"

_STALE_TIMERS: Final = 1_000
"""Number of timers without an entry at which the heap is cleaned: limits its size at little cost."""

_NO_TIMER: Final = -1.0
"""`due` of an entry without a live timer."""


class Now(NamedTuple):
    """The current time on two clocks: delays use the monotonic clock, rows show Unix time."""

    seconds: float
    """Monotonic time."""
    unix: float


class MetadataRequest(NamedTuple):
    """The metadata that one row needs. `ticket` grows with each request."""

    row: RowKey
    """The row that the value is published in: a model's, or that of a declared table's row."""
    key: str
    """The key in the store."""
    version: str
    ticket: int


class MetadataRead(NamedTuple):
    """Result of the request with this ticket."""

    row: RowKey
    ticket: int
    state: MetadataState
    since: float
    """Unix time in seconds at which `state` was entered."""
    value: bytes | None
    """The value, if `state` is LOADED."""
    reason: str


class PendingRead(msgspec.Struct, gc=False, eq=False):
    """A request whose metadata is not loaded."""

    row: RowKey
    key: str
    version: str
    ticket: int
    since: float
    """Unix time in seconds at which `state` was entered."""
    state: MetadataState = MetadataState.PENDING
    reason: str = NOT_READ
    in_flight: bool = False
    read: bool = False
    """Whether the store has answered for this version."""
    late_since: float = 0.0
    """Monotonic time, in seconds, at which the store first answered without the value."""
    due: float = _NO_TIMER
    size: int = 0
    """Bytes of an outdated value, which every further read transfers."""

    @property
    def check_size_first(self) -> bool:
        """Whether the value was too large at the last read."""
        return self.state == MetadataState.TOO_LARGE


class ReadScheduler:
    """Keeps the open requests and the times at which they are due.

    Args:
        dice: jitter, 0 to 1.
    """

    def __init__(self, dice: Callable[[], float] = random.random) -> None:
        self._dice = dice
        self.pending: dict[RowKey, PendingRead] = {}
        """All requests that are not LOADED, including those of values over the limit."""
        self._unread: dict[RowKey, PendingRead] = {}
        """Pending entries that wait for their first answer."""
        self._timers: list[tuple[float, int, RowKey]] = []
        """A heap of (due, ticket, row) of entries that will be read again."""
        self.problem = ""
        """Reason why the store is unavailable; "" while it answers."""
        self._answers_since = 0.0
        self._again_bytes = 0

    # --- requests ------------------------------------------------------------------------------------------

    def request(self, wanted: MetadataRequest, now: Now) -> None:
        """Read the metadata of a row. Replaces an earlier request for the same row."""
        self.forget(wanted.row)
        entry = PendingRead(*wanted, since=now.unix)
        self.pending[entry.row] = self._unread[entry.row] = entry

    def forget(self, row: RowKey) -> None:
        """Drop the request for a row, if there is one."""
        entry = self.pending.get(row)
        if entry is not None:
            self._leave_pending(entry)
            self._unread.pop(row, None)

    def retry(self, now: Now) -> None:
        """Make all pending entries due now."""
        for entry in self.pending.values():
            if entry.read:
                self._schedule(entry, now.seconds)

    # --- what to read --------------------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """Return the monotonic time, in seconds, at which the next key is due; 0 means now, None means never."""
        if self._unread:
            return 0.0
        while self._timers and self._entry_of(self._timers[0]) is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def take(self, count: int, now: Now) -> list[PendingRead]:
        """Return up to `count` due keys. The caller gives each back by `answered`, `unanswered` or `put_back`."""
        taken = list(islice(self._unread.values(), count))
        for entry in taken:
            del self._unread[entry.row]
        while len(taken) < count and self._timers and self._timers[0][0] <= now.seconds:
            entry_due = self._entry_of(heapq.heappop(self._timers))
            if entry_due is not None:
                entry_due.in_flight = True  # set here, so that a second timer with the same time is ignored
                taken.append(entry_due)
        for entry in taken:
            entry.in_flight = True
        return taken

    # --- what was read -------------------------------------------------------------------------------------

    def answered(self, answers: Iterable[tuple[PendingRead, Found]], now: Now) -> list[MetadataRead]:
        """Take the store's answers; return those that change something."""
        if self.problem:
            self.problem = ""
            self._answers_since = now.seconds
        reads = []
        for entry, found in answers:
            if not self._is_current(entry):
                continue
            entry.in_flight = False
            outcome, size = _judged(found, entry.version)
            if not isinstance(outcome, Absent):
                self._leave_pending(entry)
                entry.state, entry.reason, entry.since = MetadataState.LOADED, "", now.unix
                reads.append(_read(entry, outcome))
            elif self._absent(entry, outcome, size, now):
                reads.append(_read(entry))
        return reads

    def put_back(self, requests: Iterable[PendingRead]) -> None:
        """Take back requests that were not read: they are due again at once."""
        for entry in filter(self._is_current, requests):
            entry.in_flight = False
            if entry.read:
                self._schedule(entry, entry.due)
            else:
                self._unread[entry.row] = entry

    def put_all_back(self) -> None:
        """Put back all taken requests: the thread that took them has failed."""
        self.put_back([entry for entry in self.pending.values() if entry.in_flight])

    def unanswered(self, requests: Iterable[PendingRead], problem: str) -> list[MetadataRead]:
        """Take back requests because the store is unavailable; return the rows that this changes.

        Each request without an answer so far gets the reason, once: if the reason varies while the store is
        unavailable, it is not published again.
        """
        self.put_back(requests)
        self.problem = problem
        told = []
        for entry in self._unread.values():
            if entry.reason == NOT_READ:
                entry.reason = problem
                told.append(_read(entry))
        return told

    # --- inside --------------------------------------------------------------------------------------------

    def _absent(self, entry: PendingRead, why: Absent, size: int, now: Now) -> bool:
        """Note that a value is missing or unusable. Return whether state or reason have changed."""
        changed = (why.state, why.reason) != (entry.state, entry.reason)
        if why.state != entry.state:
            entry.since = now.unix
        if not entry.read:
            entry.read = True
            entry.late_since = now.seconds
        self._again_bytes += size - entry.size
        entry.state, entry.reason, entry.size = why.state, why.reason, size
        if why.state == MetadataState.TOO_LARGE:
            entry.due = _NO_TIMER  # cancels a second timer from the `retry` that caused this read
        else:
            age = now.seconds - max(entry.late_since, self._answers_since)
            delay = key_delay(age, len(self.pending), self._again_bytes, self._dice)
            self._schedule(entry, now.seconds + delay)
        return changed

    def _is_current(self, entry: PendingRead) -> bool:
        """Return whether the request has been neither answered, nor replaced, nor forgotten."""
        return self.pending.get(entry.row) is entry

    def _schedule(self, entry: PendingRead, due: float) -> None:
        entry.due = due
        heapq.heappush(self._timers, (due, entry.ticket, entry.row))
        if len(self._timers) > len(self.pending) + _STALE_TIMERS:
            self._timers = list({timer for timer in self._timers if self._entry_of(timer) is not None})
            heapq.heapify(self._timers)

    def _entry_of(self, timer: tuple[float, int, RowKey]) -> PendingRead | None:
        """Return the entry of a timer; None if it has been read, rescheduled or forgotten since."""
        due, ticket, row = timer
        entry = self.pending.get(row)
        if entry is None or entry.ticket != ticket or entry.due != due or entry.in_flight:
            return None
        return entry

    def _leave_pending(self, entry: PendingRead) -> None:
        self._again_bytes -= entry.size
        del self.pending[entry.row]


def _judged(found: Found, wanted: str) -> tuple[Found, int]:
    """Return the answer to a request of version `wanted`, and the bytes of its value if it must be read again."""
    if isinstance(found, Absent):
        return found, 0
    own = own_version(found)
    if own is None or own == wanted:
        return found, 0
    return Absent(MetadataState.OUTDATED, f"the value says version {own[:60]!r}"), len(found)


def _read(entry: PendingRead, value: bytes | None = None) -> MetadataRead:
    return MetadataRead(entry.row, entry.ticket, entry.state, entry.since, value, entry.reason)
