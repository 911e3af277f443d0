"""The changes of a table, as `shmroute.worker.changes` has those of routes.

Loaded when `Table.changes` or `achanges` is first called.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import msgspec

from shmroute.errors import NotReady
from shmroute.worker.changes import Follower, kind_of
from shmroute.worker.table_view import table_row

if TYPE_CHECKING:
    from shmroute.shm.reader import RowChange, RowReader
    from shmroute.worker.position import Position

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


class TableFollower(Follower):
    """Follows one table: its elements are `TableChange` and `TableReset`."""

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
            if change.old is not None and change.new is not None and _same(old, new):
                continue
            found.append(TableChange(rows.generation, kind_of(change), change.key, old, new))
        return found

    def _reset(self, rows: RowReader, reason: Literal["start", "gap", "redefined"]) -> TableReset[Any]:
        values = {key: self._value_of(key, value) for _, key, value in rows.rows(self._number)}
        return TableReset(rows.generation, values, reason)

    def _ready_number(self, rows: RowReader) -> int:
        table = table_row(self._position, rows, self._name)
        return table.number if table is not None and table.ready else 0


def _same(old: object, new: object) -> bool:
    """Return whether two values cannot be told apart: a row may change in a part that its value does not show.

    1, 1.0 and True are equal, but not the same value.
    """
    return bool(old == new) and repr(old) == repr(new)
