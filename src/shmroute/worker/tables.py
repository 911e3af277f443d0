"""`Table`: a declared table as a read-only mapping, from the same snapshot as the routes.

Never imports the watcher.

    class Tenant(msgspec.Struct):
        quota: int
        region: str

    tenants = table("tenants", Tenant)
    tenants["acme"].quota
    tenants.by("region", "eu")

A look-up that has been made before costs a dict access and a comparison with the generation word. Values are decoded
when they are first asked for, and kept until they change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, overload

import msgspec

from shmroute.errors import NotReady, SnapshotExpired, TableNotFound, TableNotReady, TableValueError
from shmroute.rows import Kind, TableRow, bucket_key, index_value
from shmroute.worker.row_cache import make_room

if TYPE_CHECKING:
    from shmroute.shm.reader import RowReader
    from shmroute.worker.position import Position
    from shmroute.worker.table_changes import AsyncTableChanges, TableChanges

__all__ = ["Table"]

T = TypeVar("T")
D = TypeVar("D")

_WAIT_STEP_SECONDS: Final = 0.005
_ATTEMPTS: Final = 5
"""How often a read of several rows is begun again. A table is replaced twice during one only at full rate."""

_decode_table = msgspec.msgpack.Decoder(TableRow).decode
_decode_first = msgspec.msgpack.Decoder(tuple[int, list[str]]).decode
_decode_bucket = msgspec.msgpack.Decoder(list[str]).decode


class Table(Mapping[str, T], Generic[T]):
    """One declared table. Made by `shmroute.table` and `Reader.table`; for any thread, before and after a fork.

    Iteration, `items`, `values` and `by` show one generation each.

    Raises (every read):
        NotReady: nothing has been published yet; or the table has not had its first complete list (`TableNotReady`).
        TableNotFound: the watcher has no such table.
        TableValueError: a value does not fit the type; other values are not affected.
        AreaUnreadable, NoAccess: as `Reader.resolve`.
    """

    def __init__(self, position: Position, name: str, type: Any = Any) -> None:  # noqa: A002 - as msgspec calls it
        self.name = name
        self._position = position
        self._decode = msgspec.msgpack.Decoder(type).decode
        self._cache: dict[str, T] = {}
        """What look-ups have given since the last move."""
        self._moves = -1

    # --- look-ups ------------------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> T:
        position = self._position
        if position.word[()] == position.seen and position.moves == self._moves:
            try:
                return self._cache[key]
            except KeyError:
                pass
        return self._load(key)

    @overload
    def get(self, key: str) -> T | None: ...
    @overload
    def get(self, key: str, default: D) -> T | D: ...
    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`, or `default` where there is none."""
        try:
            return self[key]
        except KeyError:
            return default

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        with self._position.lock:
            return self._position.row(self._table().number, key) is not None

    def __len__(self) -> int:
        return self._table().rows

    def __iter__(self) -> Iterator[str]:
        return iter([key for key, _ in self._listing()])

    def items(self) -> Any:
        """(key, value) of all rows of one generation."""
        return {key: self._value(key, row) for key, row in self._listing()}.items()

    def values(self) -> Any:
        """The values of all rows of one generation."""
        return {key: self._value(key, row) for key, row in self._listing()}.values()

    # --- indexes -------------------------------------------------------------------------------------------

    def keys_by(self, index: str, value: str | float | bool) -> tuple[str, ...]:
        """The keys of the rows whose `index` has this value, sorted.

        Raises:
            KeyError: the table has no such index.
            TypeError: a value that cannot be indexed.
        """
        return tuple(key for key, _ in self._found(index, value))

    def by(self, index: str, value: str | float | bool) -> tuple[T, ...]:
        """The values of the rows whose `index` has this value, in the order of their keys. Raises as `keys_by`."""
        return tuple(self._value(key, row) for key, row in self._found(index, value))

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
        """The generation that look-ups answer from."""
        return self._position.newest().generation

    @property
    def age(self) -> float:
        """Seconds since the table was last known to be in step with its source; infinite before it first was.

        As of the watcher's last status, which it writes once a second.
        """
        payload = self._position.newest().control.status()
        states = _sources(payload) if payload else ()
        contacts = [state.contact_ns for state in states if state.resource == self.name]
        if not contacts or not min(contacts):
            return float("inf")
        return max(0.0, (time.monotonic_ns() - min(contacts)) / 1e9)

    def wait_ready(self, timeout: float) -> None:
        """Wait until the table is ready, at most `timeout` seconds. Not for an event loop: it blocks.

        Raises:
            NotReady, TableNotFound: it is not, or the watcher has no such table, all that time.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._table()
            except (NotReady, TableNotFound):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise
                time.sleep(min(_WAIT_STEP_SECONDS, left))
            else:
                return

    def changes(self, since: int | None = None, *, timeout: float | None = None) -> TableChanges[T]:
        """The changes of the table since generation `since`, and each further one as it is published.

        Elements are `TableReset` (all rows: the beginning, or a new one) and `TableChange`. `since` and `timeout` are
        as for `Reader.changes`.
        """
        from shmroute.worker.table_changes import TableChanges

        return TableChanges(self._position, self.name, self._value, since, timeout)

    def achanges(self, since: int | None = None, *, timeout: float | None = None) -> AsyncTableChanges[T]:
        """`changes`, for `async for`."""
        from shmroute.worker.table_changes import AsyncTableChanges

        return AsyncTableChanges(self._position, self.name, self._value, since, timeout)

    def __repr__(self) -> str:
        return f"<shmroute.Table {self.name!r} of area {self._position.area!r}>"

    # --- inside --------------------------------------------------------------------------------------------

    def _table(self) -> TableRow:
        """The table's own row in the newest generation."""
        row = self._position.part(Kind.TABLES, self.name, lambda value: _decode_table(value) if value else _NO_TABLE)
        if row is _NO_TABLE:
            raise TableNotFound(self.name, self._position.area)
        if not row.ready:
            raise TableNotReady(self.name, self._position.area)
        return row

    def _load(self, key: str) -> T:
        if not isinstance(key, str):
            raise KeyError(key)
        position = self._position
        with position.lock:
            table = self._table()
            moves = position.moves
            if moves != self._moves:
                self._cache.clear()
                self._moves = moves
            row = position.part(table.number, key, _Row)  # kept over moves until the row itself changes
            if row.value is None:
                raise KeyError(key)
            if (value := row.decoded.get(self._decode, _MISSING)) is _MISSING:
                value = row.decoded[self._decode] = self._value(key, row.value)
            if position.moves == moves:
                make_room(self._cache, position.cached_rows)
                self._cache[key] = value
            found: T = value
            return found

    def _value(self, key: str, row: bytes) -> T:
        try:
            value: T = self._decode(row)
        except msgspec.DecodeError as error:
            raise TableValueError(self.name, key, str(error)) from error
        return value

    def _listing(self) -> list[tuple[str, bytes]]:
        return self._consistent(lambda rows, table: [(key, value) for _, key, value in rows.rows(table.number)])

    def _found(self, index: str, value: object) -> list[tuple[str, bytes]]:
        entry = index_value(index, value)
        if entry is None:
            raise TypeError(f"an index has strings, numbers, True and False, not {type(value).__name__}")

        def read(rows: RowReader, table: TableRow) -> list[tuple[str, bytes]]:
            if index not in table.indexes:
                known = ", ".join(table.indexes) or "none"
                raise KeyError(f"table {self.name!r} has no index {index!r}; it has {known}")
            first = rows.get(table.number + 1, bucket_key(entry, 0))
            if first is None:
                return []
            count, keys = _decode_first(first)
            for bucket in range(1, count):
                more = rows.get(table.number + 1, bucket_key(entry, bucket))
                keys += _decode_bucket(more) if more is not None else []
            found = ((key, rows.get(table.number, key)) for key in sorted(keys))
            return [(key, row) for key, row in found if row is not None]

        return self._consistent(read)

    def _consistent(self, read: Callable[[RowReader, TableRow], list[tuple[str, bytes]]]) -> list[tuple[str, bytes]]:
        """What `read` makes of one generation."""
        for attempt in range(_ATTEMPTS):
            rows = self._position.snapshot()
            try:
                directory = rows.get(Kind.TABLES, self.name)
                if directory is None or not (table := _decode_table(directory)).ready:
                    self._table()  # raises why, unless it has just become ready
                    continue
                return read(rows, table)
            except SnapshotExpired:
                if attempt == _ATTEMPTS - 1:
                    raise
        raise TableNotReady(self.name, self._position.area)


class _Row:
    """One row as the position remembers it, with what the tables of this process have decoded it into."""

    __slots__ = ("decoded", "value")

    def __init__(self, value: bytes | None) -> None:
        self.value = value
        self.decoded: dict[Any, Any] = {}


_MISSING: Final = object()
_NO_TABLE: Final = TableRow(0, "", ready=False, rows=0)


class _Source(msgspec.Struct):
    resource: str
    contact_ns: int


class _Status(msgspec.Struct):
    sources: list[_Source] = []


_decode_status = msgspec.msgpack.Decoder(_Status).decode


def _sources(payload: bytes) -> list[_Source]:
    """The sources' states in a status page; none if another version wrote it otherwise."""
    try:
        return _decode_status(payload).sources
    except msgspec.MsgspecError:
        return []
