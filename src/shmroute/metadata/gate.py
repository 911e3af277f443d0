"""The version gate: which keys are read, when, and what an answer means. Pure: no I/O, no threads, time is an argument.

The rules it keeps:

* A model whose app and version stay as they were costs no read. A new or changed one costs one.
* An answer counts only for the want it was read for. Each want has a ticket; an answer that comes after the version
  has changed again is dropped, and never published under the newer version.
* A value that is not there yet is asked for again (`schedule.key_delay`); one that is too large only on `retry`.
* What is remembered is bounded by the models that are wanted.

Called by `shmroute.metadata.loader`, under its lock.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from shmroute.metadata.own_version import own_version
from shmroute.metadata.schedule import key_delay
from shmroute.metadata.store import Absent, Found
from shmroute.metadata.template import KeyTemplate
from shmroute.rows import MetadataRow, MetadataState

__all__ = ["Gate", "MetadataRead", "Moment", "PendingKey", "Want"]

NOT_READ: Final = "not read yet"

_STALE_TIMERS: Final = 1_000
"""Timers of wants that are no more are swept once there are this many more of them than of live ones."""


_NO_TIMER: Final = -1.0
"""When that is due of which no timer counts."""


class Moment(NamedTuple):
    """Now, on both clocks: waits go by the monotonic one, rows show the other."""

    seconds: float
    unix: float


class Want(NamedTuple):
    """One key to read. `measure`: it was too large before."""

    namespace: str
    model: str
    key: str
    ticket: int
    measure: bool


class MetadataRead(NamedTuple):
    """What is to be published of one model, if `ticket` is still the newest by then."""

    namespace: str
    model: str
    row: MetadataRow
    ticket: int


class PendingKey(msgspec.Struct, frozen=True):
    """A model whose metadata is not there in the version asked for."""

    namespace: str
    model: str
    key: str
    state: MetadataState
    reason: str
    since: float
    """Unix time in seconds at which it came to be so."""


class _Entry(msgspec.Struct, gc=False):
    namespace: str
    model: str
    app: str
    version: str
    ticket: int
    state: MetadataState
    reason: str
    since: float
    in_flight: bool = False
    read: bool = False
    """Whether the store has answered for this version."""
    late_since: float = 0.0
    """Monotonic: when the store first answered without the value."""
    due: float = _NO_TIMER
    size: int = 0
    """Of a value that is read again."""

    @property
    def name(self) -> tuple[str, str]:
        return self.namespace, self.model


class Gate:
    """Knows what is wanted and what of it is there. `dice` is jitter, 0 to 1."""

    def __init__(self, template: KeyTemplate, dice: Callable[[], float] = random.random) -> None:
        self._template = template
        self._dice = dice
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._pending: dict[tuple[str, str], _Entry] = {}
        """All that are not LOADED."""
        self._unread: dict[tuple[str, str], _Entry] = {}
        """Of these, what waits for its first read."""
        self._timers: list[tuple[float, int, tuple[str, str]]] = []
        """A heap of (due, ticket, name) of what is asked for again."""
        self._tickets = 0
        self._problem = ""
        self._answers_since = 0.0
        self._again_bytes = 0
        self.too_large = 0
        """Values over the limit."""
        self.skipped = 0
        """Wants that cost no read, as the version was the same."""

    # --- what is wanted ------------------------------------------------------------------------------------

    def want(self, namespace: str, model: str, app: str, version: str, now: Moment) -> MetadataRead | None:
        """Have the metadata of a model read, unless it is wanted already for the same app and version.

        Returns what to publish until it has been read.
        """
        name = namespace, model
        old = self._entries.get(name)
        if old is not None:
            if old.app == app and old.version == version:
                self.skipped += 1
                return None
            self._leave(old)
        self._tickets += 1
        reason = self._problem or NOT_READ
        entry = _Entry(namespace, model, app, version, self._tickets, MetadataState.PENDING, reason, now.unix)
        self._entries[name] = self._pending[name] = self._unread[name] = entry
        return _read(entry)

    def gone(self, namespace: str, model: str) -> None:
        """Forget a model."""
        entry = self._entries.pop((namespace, model), None)
        if entry is not None:
            self._leave(entry)
            self._unread.pop(entry.name, None)

    def is_newest(self, read: MetadataRead) -> bool:
        """Whether nothing else has been wanted of the model since."""
        entry = self._entries.get((read.namespace, read.model))
        return entry is not None and entry.ticket == read.ticket

    def retry(self, now: Moment) -> None:
        """Ask again for all that is not there, now."""
        for entry in self._pending.values():
            if entry.read:
                self._schedule(entry, now.seconds)

    # --- what to read --------------------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """When there is something to read (monotonic seconds), 0 for at once, None for never."""
        if self._unread:
            return 0.0
        while self._timers and self._timed(self._timers[0]) is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def take(self, count: int, now: Moment) -> list[Want]:
        """Up to `count` keys that are due. Each must come back through `answered` or `unanswered`."""
        taken = list(islice(self._unread.values(), count))
        for entry in taken:
            del self._unread[entry.name]
        while len(taken) < count and self._timers and self._timers[0][0] <= now.seconds:
            timed = self._timed(heapq.heappop(self._timers))
            if timed is not None:
                timed.in_flight = True  # at once: a second timer of the same moment finds it taken
                taken.append(timed)
        for entry in taken:
            entry.in_flight = True
        return [
            Want(
                entry.namespace,
                entry.model,
                self._key(entry),
                entry.ticket,
                entry.state == MetadataState.TOO_LARGE,
            )
            for entry in taken
        ]

    # --- what was read -------------------------------------------------------------------------------------

    def answered(self, answers: Iterable[tuple[Want, Found]], now: Moment) -> list[MetadataRead]:
        """Take what the store found; returns what is to be published."""
        if self._problem:
            self._problem = ""
            self._answers_since = now.seconds
        reads = []
        for want, found in answers:
            entry = self._current(want)
            if entry is None:
                continue
            entry.in_flight = False
            outcome, size = _judged(found, entry.version)
            if not isinstance(outcome, Absent):
                self._leave(entry)
                entry.state, entry.reason, entry.since = MetadataState.LOADED, "", now.unix
                reads.append(_read(entry, outcome))
            elif self._absent(entry, outcome, size, now):
                reads.append(_read(entry))
        return reads

    def unanswered(self, wants: Iterable[Want], problem: str) -> list[MetadataRead]:
        """Take wants back because the store did not answer; returns what that changes.

        All that have not been read yet are told the reason, once: while it lasts, the reason may vary.
        """
        for want in wants:
            entry = self._current(want)
            if entry is None:
                continue
            entry.in_flight = False
            if entry.read:
                self._schedule(entry, entry.due)
            else:
                self._unread[entry.name] = entry
        self._problem = problem
        told = []
        for entry in self._unread.values():
            if entry.reason == NOT_READ:
                entry.reason = problem
                told.append(_read(entry))
        return told

    def _absent(self, entry: _Entry, why: Absent, size: int, now: Moment) -> bool:
        """Note that a value is not there. Returns whether that is news."""
        news = (why.state, why.reason) != (entry.state, entry.reason)
        if why.state != entry.state:
            entry.since = now.unix
        if not entry.read:
            entry.read = True
            entry.late_since = now.seconds
        self._uncount(entry)
        entry.state, entry.reason, entry.size = why.state, why.reason, size
        self._again_bytes += size
        if why.state == MetadataState.TOO_LARGE:
            self.too_large += 1
            entry.due = _NO_TIMER  # a second timer of the retry that led to this read finds nothing to do
        else:
            age = now.seconds - max(entry.late_since, self._answers_since)
            delay = key_delay(age, len(self._pending), self._again_bytes, self._dice)
            self._schedule(entry, now.seconds + delay)
        return news

    # --- inside --------------------------------------------------------------------------------------------

    def _key(self, entry: _Entry) -> str:
        return self._template.key(entry.namespace, entry.app, entry.model, entry.version)

    def _current(self, want: Want) -> _Entry | None:
        entry = self._entries.get((want.namespace, want.model))
        return entry if entry is not None and entry.ticket == want.ticket else None

    def _schedule(self, entry: _Entry, due: float) -> None:
        entry.due = due
        heapq.heappush(self._timers, (due, entry.ticket, entry.name))
        if len(self._timers) > len(self._pending) + _STALE_TIMERS:
            self._timers = list({timer for timer in self._timers if self._timed(timer) is not None})
            heapq.heapify(self._timers)

    def _timed(self, timer: tuple[float, int, tuple[str, str]]) -> _Entry | None:
        """The entry that a timer is for; None if it has been read, set anew or forgotten since."""
        due, ticket, name = timer
        entry = self._pending.get(name)
        if entry is None or entry.ticket != ticket or entry.due != due or entry.in_flight:
            return None
        return entry

    def _leave(self, entry: _Entry) -> None:
        """The entry is loaded, or is no more: it is not pending."""
        self._uncount(entry)
        self._pending.pop(entry.name, None)

    def _uncount(self, entry: _Entry) -> None:
        self._again_bytes -= entry.size
        entry.size = 0
        if entry.state == MetadataState.TOO_LARGE:
            self.too_large -= 1

    # --- saying how it stands ------------------------------------------------------------------------------

    @property
    def problem(self) -> str:
        """Why the store does not answer, "" while it does."""
        return self._problem

    @property
    def pending_count(self) -> int:
        """Models whose metadata is not there in the version asked for, the too large ones among them."""
        return len(self._pending)

    def pending(self) -> Iterator[PendingKey]:
        """What is not there in the version asked for, and why."""
        for entry in self._pending.values():
            yield PendingKey(entry.namespace, entry.model, self._key(entry), entry.state, entry.reason, entry.since)


def _judged(found: Found, wanted: str) -> tuple[Found, int]:
    """What an answer means for who wants version `wanted`, and the size of a value that must be read again."""
    if isinstance(found, Absent):
        return found, 0
    own = own_version(found)
    if own is None or own == wanted:
        return found, 0
    return Absent(MetadataState.OUTDATED, f"the value says version {own[:60]!r}"), len(found)


def _read(entry: _Entry, value: bytes | None = None) -> MetadataRead:
    version = None if value is None else entry.version
    row = MetadataRow(entry.app, version, entry.version, entry.state, entry.since, value, entry.reason)
    return MetadataRead(entry.namespace, entry.model, row, entry.ticket)
