"""Iterators over the changes of a declared table, as `shmroute.worker.changes` for routes.

Loaded when `Table.changes` or `achanges` is first called.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

import msgspec

from shmroute.errors import NotReady
from shmroute.worker.changes import AsyncChanges, Changes, Follower
from shmroute.worker.table_view import table_row

if TYPE_CHECKING:
    from shmroute.shm.reader import RowChange, RowReader
    from shmroute.worker.position import Position

__all__ = ["AsyncTableChanges", "TableChange", "TableChanges", "TableReset"]

T = TypeVar("T")


class TableChange(msgspec.Struct, Generic[T], frozen=True):
    """One row was added, changed or removed."""

    generation: int
    kind: Literal["added", "changed", "removed"]
    key: str
    old: T | None
    """The value before; None if there was none."""
    new: T | None
    """The value after; None if there is none any more."""


class TableReset(msgspec.Struct, Generic[T], frozen=True):
    """All rows. Replace all former state by them: the changes before this generation are unknown."""

    generation: int
    rows: dict[str, T]
    reason: Literal["start", "gap", "redefined"]
    """"redefined": the table was declared anew, or has got its first complete list. The others are as for routes."""


class TableChanges(Iterator["TableChange[T] | TableReset[T]"], Generic[T]):
    """Made by `Table.changes`. For one thread. A loop over it can stop, and a later loop continues."""

    def __init__(
        self,
        position: Position,
        name: str,
        value_of: Callable[[str, bytes], T],
        since: int | None,
        timeout: float | None,
    ) -> None:
        self._changes = Changes.of(_TableFollower(position, name, value_of, since), timeout)

    @property
    def generation(self) -> int:
        """Generation up to which all changes have been returned."""
        return self._changes.generation

    def __next__(self) -> TableChange[T] | TableReset[T]:
        return cast("TableChange[T] | TableReset[T]", next(self._changes))


class AsyncTableChanges(AsyncIterator["TableChange[T] | TableReset[T]"], Generic[T]):
    """Made by `Table.achanges`. For one task. Cancelling `anext` loses nothing."""

    def __init__(
        self,
        position: Position,
        name: str,
        value_of: Callable[[str, bytes], T],
        since: int | None,
        timeout: float | None,
    ) -> None:
        self._changes = AsyncChanges.of(_TableFollower(position, name, value_of, since), timeout)

    @property
    def generation(self) -> int:
        """Generation up to which all changes have been returned."""
        return self._changes.generation

    async def __anext__(self) -> TableChange[T] | TableReset[T]:
        return cast("TableChange[T] | TableReset[T]", await anext(self._changes))


class _TableFollower(Follower):
    def __init__(self, position: Position, name: str, value_of: Callable[[str, bytes], Any], since: int | None) -> None:
        super().__init__(position, since)
        self._name = name
        self._value_of = value_of
        self._number = 0

    def _first(self, rows: RowReader, *, gap: bool) -> deque[Any]:
        number = self._ready_number(rows)
        if not number:
            raise NotReady(self._position.area)
        self._number = number
        if not gap and self._since is not None and rows.seek(self._since):
            return deque()
        reason: Literal["start", "gap"] = "gap" if gap or self._since is not None else "start"
        return deque([self._reset(rows, reason)])

    def _elements(self, rows: RowReader, changes: list[RowChange]) -> list[Any]:
        number = self._ready_number(rows)
        if number != self._number:
            if not number:
                return []  # the table is gone: its last rows stay valid until it is declared again
            self._number = number
            return [self._reset(rows, "redefined")]
        found = []
        for change in changes:
            if change.kind != number:
                continue
            old = self._value_of(change.key, change.old) if change.old is not None else None
            new = self._value_of(change.key, change.new) if change.new is not None else None
            kind: Literal["added", "changed", "removed"] = (
                "added" if change.old is None else "removed" if change.new is None else "changed"
            )
            found.append(TableChange(rows.generation, kind, change.key, old, new))
        return found

    def _reset(self, rows: RowReader, reason: Literal["start", "gap", "redefined"]) -> TableReset[Any]:
        values = {key: self._value_of(key, value) for _, key, value in rows.rows(self._number)}
        return TableReset(rows.generation, values, reason)

    def _ready_number(self, rows: RowReader) -> int:
        table = table_row(self._position, rows, self._name)
        return table.number if table is not None and table.ready else 0
