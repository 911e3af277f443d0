"""`Table`: a declared table as a read-only mapping, published together with the routes.

`shmroute.worker.built_in` has the tables that need no declaration.

Never imports the watcher.

    class Tenant(msgspec.Struct):
        quota: int
        region: str

    tenants = table("tenants", Tenant)
    tenants["acme"].quota
    tenants.by("region", "eu")

A repeated look-up costs a dict access and a comparison with the generation word. Values are decoded at their first use,
and cached until they change.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec

from shmroute.errors import NotReady, SnapshotExpired, TableNotFound
from shmroute.rows import Kind, TableRow
from shmroute.worker.lookup import TableLookup
from shmroute.worker.row_cache import make_room
from shmroute.worker.table_view import TableView, decode_table, ready_row

if TYPE_CHECKING:
    from shmroute.shm.reader import RowReader
    from shmroute.worker.changes import AsyncChanges, Changes
    from shmroute.worker.position import Position
    from shmroute.worker.table_changes import TableChange, TableReset

T = TypeVar("T")
R = TypeVar("R")

_WAIT_STEP_SECONDS: Final = 0.005
ATTEMPTS: Final = 5
"""Maximum attempts to read. One fails only if the writer, at full rate, replaces the table twice meanwhile."""


class Table(TableLookup, TableView[T], Generic[T]):
    """One table, declared or built in. Made by `shmroute.table` and `Reader.table`.

    For any thread, before and after a fork.

    Each iteration and each call of `items`, `values` and `by` reads one generation.

    Raises (every read):
        NotReady: nothing has been published yet; `TableNotReady` if only the table's first complete list is missing.
        TableNotFound: the watcher has no such table.
        TableValueError: a value does not fit the type; other values are not affected.
        AreaUnreadable, NoAccess: as `Reader.resolve`.
    """

    def __init__(self, position: Position, name: str, decode: Callable[[bytes], T]) -> None:
        TableView.__init__(self, name, decode)
        self._position = position
        self._number = 0
        self._moves = -1
        """Value of the position's `moves` when it was last asked to serve this look-up."""
        self._set_number(0)

    # --- reading -------------------------------------------------------------------------------------------

    if TYPE_CHECKING:  # at run time `TableLookup` has it; for mypy, so that values have type T

        def __getitem__(self, key: str) -> T: ...

    def _set_number(self, number: int) -> None:
        """Use the rows of this kind from now on, and forget the decoded rows of another one."""
        TableLookup.__init__(self, number, self._decode, msgspec.DecodeError, self._position.cached_rows)
        self._drop_all()
        self._number = number

    def _look_up(self, key: str) -> T:
        """Answer what `TableLookup` cannot: rows not decoded yet, the first look-up of a generation, errors."""
        if not isinstance(key, str):
            hash(key)  # raises TypeError for an unhashable key, as a dict does
            raise KeyError(key)
        position = self._position
        with position.lock:
            for _ in range(ATTEMPTS):
                number = self._table().number
                moves = position.moves
                if moves != self._moves:
                    if number != self._number:
                        self._set_number(number)
                    position.serve(self, number, self.name)
                    self._moves = moves
                if key in self._cache:
                    found: T = self._cache[key]
                    return found
                try:
                    row = position.rows.get(number, key)
                except SnapshotExpired:
                    self._refuse_if_stuck()
                    continue
                if row is None:
                    raise KeyError(key)
                found = self._value(key, row)
                if position.moves == moves:  # else decoding has made a look-up, which has moved the position
                    make_room(self._cache, position.cached_rows)
                    self._cache[key] = found
                return found
        raise NotReady(position.area)

    def by(self, index: str, value: str | float | bool) -> tuple[T, ...]:
        """Return the values of the rows whose `index` has this value, in the order of keys. Raises as `keys_by`.

        Keys and values that were read before are cached until they change.
        """
        position = self._position
        with position.lock:
            for _ in range(ATTEMPTS):
                table = self._table()
                moves = position.moves

                def bucket(key: str, decode: Callable[[bytes], Any], kind: int = table.number + 1) -> Any:
                    return position.part(kind, key, lambda row: decode(row) if row else None)

                try:
                    found = tuple(self[key] for key in self._keys(table, index, value, bucket))
                except KeyError:
                    if position.moves == moves:
                        raise
                if position.moves == moves:  # else the position has moved meanwhile
                    return found
        return super().by(index, value)

    def _read(self, read: Callable[[RowReader, TableRow], R]) -> R:
        for _ in range(ATTEMPTS):
            with self._position.lock:
                table = self._table()
                rows = self._position.rows.snapshot()
            try:
                return read(rows, table)
            except SnapshotExpired as error:
                self._refuse_if_stuck()
                expired = error
        raise expired

    def _refuse_if_stuck(self) -> None:
        """Raise the fault, if there is one: newer generations cannot be read, and the current one is overwritten."""
        if (fault := self._position.fault) is not None:
            raise fault.with_traceback(None) from None

    def _table(self) -> TableRow:
        """Return the table's own row in the newest generation."""
        row = self._position.part(Kind.TABLES, self.name, lambda value: decode_table(value) if value else _NO_TABLE)
        return ready_row(self.name, self._position.area, None if row is _NO_TABLE else row)

    # --- state ---------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the table has had its first complete list."""
        try:
            self._table()
        except (NotReady, TableNotFound):
            return False
        return True

    @property
    def generation(self) -> int:
        """Generation that look-ups answer from."""
        return self._position.newest().generation

    @property
    def age(self) -> float:
        """Seconds since the table was last known to be in step with its source; infinite before the first time.

        The watcher updates it once a second, in its status.
        """
        try:
            payload = self._position.newest().control.status()
        except NotReady:
            return float("inf")
        states = _sources(payload) if payload else ()
        contacts = [state.contact_ns for state in states if state.resource == self.name]
        if not contacts or not min(contacts):
            return float("inf")
        return max(0.0, (time.monotonic_ns() - min(contacts)) / 1e9)

    def wait_ready(self, timeout: float) -> None:
        """Wait until the table is ready, at most `timeout` seconds. Blocks the thread: not for an event loop.

        Raises:
            NotReady, TableNotFound: after `timeout` seconds the table is not ready, or the watcher has no such table.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._table()
            except (NotReady, TableNotFound):
                left = deadline - time.monotonic()
                if not left > 0:  # true for NaN too
                    raise
                time.sleep(min(_WAIT_STEP_SECONDS, left))
            else:
                return

    def changes(
        self, since: int | None = None, *, timeout: float | None = None
    ) -> Changes[TableChange[T] | TableReset[T]]:
        """Iterate over the changes of the table since generation `since`, and over new ones as they are published.

        Elements are `TableReset` (all rows: at the start, or after a gap) and `TableChange`. `since` and `timeout` are
        as for `Reader.changes`.
        """
        from shmroute.worker.changes import Changes
        from shmroute.worker.table_changes import TableFollower

        return Changes(TableFollower(self._position, self.name, self._value, since), timeout)

    def achanges(
        self, since: int | None = None, *, timeout: float | None = None
    ) -> AsyncChanges[TableChange[T] | TableReset[T]]:
        """Return the same iterator as `changes`, for `async for`."""
        from shmroute.worker.changes import AsyncChanges
        from shmroute.worker.table_changes import TableFollower

        return AsyncChanges(TableFollower(self._position, self.name, self._value, since), timeout)

    def __repr__(self) -> str:
        return f"<shmroute.Table {self.name!r} of area {self._position.area!r}>"


_NO_TABLE: Final = TableRow(0, "", ready=False, rows=0)


class _Source(msgspec.Struct):
    resource: str
    contact_ns: int


class _Status(msgspec.Struct):
    sources: list[_Source] = []


_decode_status = msgspec.msgpack.Decoder(_Status).decode


def _sources(payload: bytes) -> list[_Source]:
    """Return the sources' states in a status page; none if another version wrote it in another form."""
    try:
        return _decode_status(payload).sources
    except msgspec.MsgspecError:
        return []
