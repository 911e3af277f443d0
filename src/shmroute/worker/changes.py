"""Iterators over the changes of the routes, for applications that must react: `Reader.changes` and `achanges`.

Loaded when one of them is first called. Each iterator has its own view of the area: it takes no lock of the reader,
delays no look-up, and sees every generation once, in order, even if the watcher is replaced or starts a new base. An
iterator that falls behind by two whole bases finds its last view overwritten, and starts again with a `Reset`.

Events are about models only. An app's row holds nothing that the routes of its models lack, and `Route.pick` looks up
endpoints when they are needed; `shmroute.shm.RowReader.advance` returns the changes of all kinds of rows.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NamedTuple, TypeVar

import msgspec

from shmroute.errors import AreaUnreadable, NoAccess, NotReady, SnapshotExpired
from shmroute.rows import Kind
from shmroute.worker.routes import Route

if TYPE_CHECKING:
    from asyncio import Future

    from shmroute.shm.reader import RowChange, RowReader
    from shmroute.worker.position import Position

    RouteOf = Callable[[bytes], Route]
    """Makes a route from a MODEL row."""

__all__ = ["AsyncChanges", "Change", "Changes", "Follower", "Reset"]

E = TypeVar("E")

_FIRST_PAUSE_SECONDS: Final = 0.001
_LONGEST_PAUSE_SECONDS: Final = 0.01
"""Pauses between two checks of the generation: short after a change, since more may follow. 100 a second are cheap."""

_RETRY_SECONDS: Final = 1.0
"""Time until a generation that cannot be read is tried again."""


class Change(msgspec.Struct, frozen=True):
    """One model's route was added, changed or removed, or its metadata changed."""

    generation: int
    """Generation that published the change. Changes of one generation come in no particular order."""
    kind: Literal["added", "changed", "removed", "metadata"]
    model: str
    old: Route | None
    """The route before; None if there was none. For "metadata", the route in this generation."""
    new: Route | None
    """The route after; None if there is none any more."""


class Reset(msgspec.Struct, frozen=True):
    """All routes. Replace all former state by them: the changes before this generation are unknown."""

    generation: int
    routes: dict[str, Route]
    reason: Literal["start", "gap"]
    """"start": the caller gave no generation. "gap": the given generation is too old or was never published, or the
    iterator's last view has been overwritten."""


class _State(NamedTuple):
    """State of an iterator. It is replaced as one value, so that an interrupt in the middle loses nothing."""

    rows: RowReader | None
    complete: int
    """Generation up to which all changes have been returned, apart from `pending`."""
    pending: deque[Any]


class Follower:
    """Base of all iterators: moves on by one generation at a time and collects its changes.

    A subclass returns the first elements (`_first`), and the elements for the changes of one generation (`_elements`).
    """

    def __init__(self, position: Position, since: int | None) -> None:
        self._position = position
        self._since = since
        self._closings = position.closings
        self._retry_at = 0.0
        self._state = _State(None, since or 0, deque())

    @property
    def pending(self) -> deque[Any]:
        return self._state.pending

    @property
    def ended(self) -> bool:
        """Whether the reader has been closed since the iterator was made."""
        return self._position.closings != self._closings

    @property
    def generation(self) -> int:
        """Generation up to which all changes have been returned."""
        rows, complete, pending = self._state
        return complete if pending or rows is None else rows.generation

    def newest(self) -> float | None:
        """Return the newest published generation; None before the first read."""
        rows = self._state.rows
        return rows.control.head[()] if rows else None

    def behind(self) -> bool:
        """Return whether there may be a generation to read. Cheap."""
        rows = self._state.rows
        if rows is not None and rows.control.head[()] == rows.generation:
            return False
        return not self._retry_at or time.monotonic() >= self._retry_at

    def read(self) -> bool:
        """Read one more generation, if there is one, and add its changes to `pending`. Returns whether there was one.

        Raises:
            AreaUnreadable, NoAccess: the area cannot be read at all.
        """
        if self._state.rows is None:
            return self._start()
        before = self._state.rows
        rows = before.snapshot()
        try:
            changes = rows.advance()
            elements = self._elements(rows, changes) if changes is not None else []
        except SnapshotExpired:
            return self._start(gap=True)
        except (AreaUnreadable, NoAccess):  # as in a look-up: stay at this generation; `Reader.fault` says why
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            return False
        self._retry_at = 0.0
        if changes is None:
            return False
        self._state = _State(rows, before.generation, deque(elements))
        return True

    def _start(self, *, gap: bool = False) -> bool:
        """Start at the newest generation; again, if the last view has been overwritten (`gap`)."""
        try:
            rows = self._position.snapshot()
            pending = self._first(rows, gap=gap)
        except NotReady:
            return False
        except SnapshotExpired:  # the writer has built two new bases meanwhile; the next attempt may succeed
            return False
        self._state = _State(rows, self.generation or self._since or 0, pending)
        return True

    def _first(self, rows: RowReader, *, gap: bool) -> deque[Any]:
        """Return the first elements; none if `rows` could go back to the generation that the caller has."""
        raise NotImplementedError

    def _elements(self, rows: RowReader, changes: list[RowChange]) -> list[Any]:
        """Return the elements for the changes of one generation."""
        raise NotImplementedError


class RouteFollower(Follower):
    """Follows the routes: its elements are `Change` and `Reset`."""

    def __init__(self, position: Position, route_of: RouteOf, since: int | None, metadata: bool) -> None:
        super().__init__(position, since)
        self._route_of = route_of
        self._metadata = metadata

    def _first(self, rows: RowReader, *, gap: bool) -> deque[Any]:
        if not gap and self._since is not None and rows.seek(self._since):
            return deque()
        routes = {key: self._route_of(value) for _, key, value in rows.rows(Kind.MODEL)}
        reason: Literal["start", "gap"] = "gap" if gap or self._since is not None else "start"
        return deque([Reset(rows.generation, routes, reason)])

    def _elements(self, rows: RowReader, changes: list[RowChange]) -> list[Any]:
        elements = (self._element(rows, change) for change in changes)
        return [element for element in elements if element is not None]

    def _element(self, rows: RowReader, change: RowChange) -> Change | None:
        if change.kind == Kind.MODEL:
            old = self._route_of(change.old) if change.old is not None else None
            new = self._route_of(change.new) if change.new is not None else None
            return Change(rows.generation, kind_of(change), change.key, old, new)
        if change.kind == Kind.METADATA and self._metadata:
            namespace, _, model = change.key.partition("/")
            value = rows.get(Kind.MODEL, model)
            winner = self._route_of(value) if value is not None else None
            for route in (winner, *winner.others) if winner else ():
                if route.namespace == namespace:
                    return Change(rows.generation, "metadata", model, route, route)
        return None


def kind_of(change: RowChange) -> Literal["added", "changed", "removed"]:
    """Return what has happened to a row."""
    return "added" if change.old is None else "removed" if change.new is None else "changed"


class Changes(Iterator[E], Generic[E]):
    """Made by `Reader.changes` and `Table.changes`. For one thread. A loop can stop, and a later loop continues."""

    def __init__(self, follower: Follower, timeout: float | None) -> None:
        self._follower = follower
        self._timeout = timeout

    @property
    def generation(self) -> int:
        """Generation up to which all changes have been returned: pass it as `since` to continue from here."""
        return self._follower.generation

    def __next__(self) -> E:
        follower = self._follower
        wait = _Wait(follower, self._timeout)
        while not follower.pending:
            if follower.ended:
                raise StopIteration
            if follower.behind() and follower.read():
                wait.noticed()
            elif wait.over:
                raise StopIteration
            else:
                time.sleep(wait.pause())
            if wait.enough and not follower.pending:
                raise StopIteration
        element: E = follower.pending.popleft()
        return element


class AsyncChanges(AsyncIterator[E], Generic[E]):
    """Made by `Reader.achanges` and `Table.achanges`. For one task. Cancelling `anext` loses nothing.

    Reads in a thread of the event loop's executor, because the first element and a long gap may take a while.
    """

    def __init__(self, follower: Follower, timeout: float | None) -> None:
        self._follower = follower
        self._timeout = timeout
        self._reading: Future[Any] | None = None

    @property
    def generation(self) -> int:
        """Generation up to which all changes have been returned: pass it as `since` to continue from here."""
        return self._follower.generation

    async def __anext__(self) -> E:
        import asyncio

        follower = self._follower
        wait = _Wait(follower, self._timeout)
        while not follower.pending:
            if follower.ended:
                raise StopAsyncIteration
            if (self._reading is not None or follower.behind()) and await self._read():
                wait.noticed()
            elif wait.over:
                raise StopAsyncIteration
            else:
                await asyncio.sleep(wait.pause())
            if wait.enough and not follower.pending:
                raise StopAsyncIteration
        element: E = follower.pending.popleft()
        return element

    async def _read(self) -> bool:
        import asyncio

        if self._reading is None:
            self._reading = asyncio.ensure_future(asyncio.to_thread(self._follower.read))
        reading = self._reading
        try:
            return bool(await asyncio.shield(reading))
        finally:
            if reading.done():
                self._reading = None


class _Wait:
    """The waiting time of one call of `next`, and the pauses between its checks."""

    def __init__(self, follower: Follower, timeout: float | None) -> None:
        self._follower = follower
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._target: float | None = None
        self._pause = _FIRST_PAUSE_SECONDS
        self._note_target()

    def _note_target(self) -> None:
        if self._target is None:
            self._target = self._follower.newest()

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    @property
    def enough(self) -> bool:
        """Whether the time is up, and all generations that existed when the call began have been read."""
        return self._target is not None and self._follower.generation >= self._target and self.over

    def noticed(self) -> None:
        """Shorten the next pause, since a generation was read and more may follow."""
        self._pause = _FIRST_PAUSE_SECONDS
        self._note_target()

    def pause(self) -> float:
        """Return the seconds until the next check."""
        pause, self._pause = self._pause, min(self._pause * 2, _LONGEST_PAUSE_SECONDS)
        return pause if self._deadline is None else min(pause, max(0.0, self._deadline - time.monotonic()))
