"""`TableView`: a table as a read-only mapping; the base of the tables of a reader and of a snapshot.

A table in `shmroute.worker.tables` reads the newest generation, one in `shmroute.worker.snapshot` a fixed generation.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeAlias, TypeVar, overload

import msgspec

from shmroute.errors import TableNotFound, TableNotReady, TableValueError
from shmroute.rows import (
    BUILT_IN_TABLES,
    FIRST_TABLE_NUMBER,
    Kind,
    TableRow,
    bucket_key,
    index_value,
    table_kinds,
)

if TYPE_CHECKING:
    from shmroute.shm.reader import RowReader
    from shmroute.worker.position import Position
    from shmroute.worker.table_metadata import TableMetadata

T = TypeVar("T")
D = TypeVar("D")
M = TypeVar("M")
R = TypeVar("R")

Bucket: TypeAlias = Callable[[str, Callable[[bytes], Any]], Any]

_decode_first = msgspec.msgpack.Decoder(tuple[int, list[str]]).decode
_decode_bucket = msgspec.msgpack.Decoder(list[str]).decode

decode_table = msgspec.msgpack.Decoder(TableRow).decode


def decoder(type: Any) -> Callable[[bytes], Any]:  # noqa: A002 - as msgspec calls it
    """Return what makes values of this type from rows; any type that msgspec decodes."""
    return msgspec.msgpack.Decoder(type).decode


def table_row(position: Position, rows: RowReader, name: str) -> TableRow | None:
    """Return a table's own row at the generation of `rows`; None if there is no such table.

    A built-in table has no TABLES row, so it is made here, without a number of rows. Models and apps are complete in
    every generation.
    """
    kind = BUILT_IN_TABLES.get(name)
    if kind is None:
        row = rows.get(Kind.TABLES, name)
        return position.decoded(decode_table, row) if row is not None else None
    ready = True
    if kind == Kind.ENDPOINTS and position.area_with_endpoints != rows.control.area_id:
        ready = endpoints_ready(rows)
        if ready and next(rows.keys(kind), None) is not None:
            position.area_with_endpoints = rows.control.area_id
    return TableRow(int(kind), "", ready, rows=0)


def endpoints_ready(rows: RowReader) -> bool:
    """Return whether the first complete list of EndpointSlices has been published.

    It may be missing, for instance for want of the right to list them: then there are apps, and no ENDPOINTS row. Once
    it has been published, each AppModel has one.
    """
    return next(rows.keys(Kind.ENDPOINTS), None) is not None or next(rows.keys(Kind.APP), None) is None


def _bucket_in(rows: RowReader, table: TableRow) -> Bucket:
    def bucket(key: str, decode: Callable[[bytes], Any]) -> Any:
        row = rows.get(table_kinds(table.number)[1], key)
        return decode(row) if row is not None else None

    return bucket


def _count(rows: RowReader, table: TableRow) -> int:
    return table.rows if table.number >= FIRST_TABLE_NUMBER else sum(1 for _ in rows.keys(table.number))


def _describe(area: str, name: str) -> str:
    from shmroute.worker.similar_names import describe_table

    return describe_table(area, name)


def ready_row(name: str, area: str, row: TableRow | None) -> TableRow:
    """Return a table's own row, after checking that the table can be read.

    Raises:
        TableNotFound: there is no such table.
        TableNotReady: the table's first complete list is still missing.
    """
    if row is None:
        raise TableNotFound(name, area).with_hint(partial(_describe, area, name))
    if not row.ready:
        raise TableNotReady(name, area)
    return row


class TableView(Mapping[str, T], Generic[T]):
    """A table as a mapping of decoded values, with its indexes. Each method reads one generation.

    `in`, `len`, iteration and `keys_by` copy no value: a table may hold objects of 1.5 MB.

    Args:
        name: the table's name.
        decode: makes a value from a row.
    """

    def __init__(self, name: str, decode: Callable[[bytes], T]) -> None:
        self.name = name
        self._decode = decode

    @abstractmethod
    def _read(self, read: Callable[[RowReader, TableRow], R]) -> R:
        """Return the result of `read`, called with the rows of one generation and the table's own row in it."""

    if TYPE_CHECKING:

        def __getitem__(self, key: str) -> T: ...

    @overload
    def get(self, key: str) -> T | None: ...
    @overload
    def get(self, key: str, default: D) -> T | D: ...
    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, or `default` if there is none."""
        try:
            return self[key]
        except KeyError:
            return default

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._read(lambda rows, table: rows.has(table.number, key))

    def __len__(self) -> int:
        return self._read(_count)

    def __iter__(self) -> Iterator[str]:
        return iter(self._read(lambda rows, table: list(rows.keys(table.number))))

    def items(self) -> ItemsView[str, T]:
        """Return (key, value) of all rows."""
        return self._all().items()

    def values(self) -> ValuesView[T]:
        """Return the values of all rows."""
        return self._all().values()

    def keys_by(self, index: str, value: str | float | bool) -> tuple[str, ...]:
        """Return the keys of the rows whose `index` has this value, sorted.

        Raises:
            KeyError: the table has no such index.
            TypeError: the value cannot be indexed.
        """
        return tuple(self._read(lambda rows, table: self._keys(table, index, value, _bucket_in(rows, table))))

    def by(self, index: str, value: str | float | bool) -> tuple[T, ...]:
        """Return the values of the rows whose `index` has this value, in the order of keys. Raises as `keys_by`."""

        def read(rows: RowReader, table: TableRow) -> list[tuple[str, bytes | None]]:
            keys = self._keys(table, index, value, _bucket_in(rows, table))
            return [(key, rows.get(table.number, key)) for key in keys]

        return tuple(self._value(key, row) for key, row in self._read(read) if row is not None)

    @overload
    def metadata(self, key: str) -> TableMetadata[Any]: ...
    @overload
    def metadata(self, key: str, type: Callable[..., M]) -> TableMetadata[M]: ...
    def metadata(self, key: str, type: Any = Any) -> TableMetadata[Any]:  # noqa: A002 - as msgspec calls it
        """Return the row's metadata, decoded from JSON. `redis` in the table's declaration names the store.

        Args:
            key: key of the row.
            type: the type of the decoded value; any type that msgspec decodes.

        Raises:
            KeyError: there is no such row.
            TableValueError: the value is not JSON, or does not fit the type.
            TypeError: the table is a built-in one.
        """
        if self.name in BUILT_IN_TABLES:
            raise TypeError(f"table {self.name!r} is built in and has no metadata of its own: use `Route.metadata`")
        from shmroute.worker.table_metadata import decoded

        if not isinstance(key, str):
            hash(key)  # raises TypeError for an unhashable key, as a dict does
            raise KeyError(key)

        def read(rows: RowReader, table: TableRow) -> tuple[bool, bytes | None]:
            return rows.has(table.number, key), rows.get(table_kinds(table.number)[2], key)

        there, row = self._read(read)
        if not there:
            raise KeyError(key)
        return decoded(self.name, key, row, type)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"table {self.name!r} cannot be copied or pickled: make it again, by its name, where it is needed"
        )

    def _all(self) -> dict[str, T]:
        found = self._read(lambda rows, table: [(key, row) for _, key, row in rows.rows(table.number)])
        return {key: self._value(key, row) for key, row in found}

    def _keys(self, table: TableRow, index: str, value: object, bucket: Bucket) -> list[str]:
        """Return the sorted keys for a value of an index. `bucket` returns a decoded row of the index, or None."""
        entry = index_value(index, value)
        if entry is None:
            raise TypeError(f"an index has strings, numbers, True and False, not {type(value).__name__}")
        if index not in table.indexes:
            known = ", ".join(table.indexes) or "none"
            raise KeyError(f"table {self.name!r} has no index {index!r}; it has {known}")
        count, keys = bucket(bucket_key(entry, 0), _decode_first) or (0, ())
        return sorted(chain(keys, *(bucket(bucket_key(entry, n), _decode_bucket) or () for n in range(1, count))))

    def _value(self, key: str, row: bytes) -> T:
        try:
            value: T = self._decode(row)
        except msgspec.DecodeError as error:
            raise TableValueError(self.name, key, str(error)) from error
        return value
