"""`Snapshot`: routes and tables of one generation, so that all values read from it belong together."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, overload

import msgspec

from shmroute.errors import ModelNotFound, SnapshotExpired
from shmroute.rows import Kind, TableRow
from shmroute.worker.built_in import check_table, decode_app, decode_endpoints
from shmroute.worker.metadata import MetadataValue, decode_row
from shmroute.worker.routes import Parts, route_in
from shmroute.worker.table_view import TableView, decoder, ready_row, table_row

if TYPE_CHECKING:
    from shmroute.rows import App
    from shmroute.shm.reader import RowReader
    from shmroute.worker.endpoints import Endpoint
    from shmroute.worker.position import Position
    from shmroute.worker.routes import Route

T = TypeVar("T")
R = TypeVar("R")


class Snapshot:
    """Routes and tables as they were in one generation. Made by `shmroute.snapshot` and `Reader.snapshot`.

        with shmroute.snapshot() as now:
            route = now.resolve("iiot_dataservice")
            flag = now.table("flags")["checkout"]

    Making a snapshot copies nothing, and each row is decoded once. A route's metadata is that of the snapshot too, but
    its endpoints are always the current ones, because a withdrawn address does not answer.

    Keep a snapshot for one request, not longer: the watcher overwrites it once it has rebuilt the table twice.

    Raises (every read):
        SnapshotExpired: the generation has been overwritten, or the `with` block has ended.
        AreaUnreadable: a row is damaged.
    """

    def __init__(self, position: Position, route_of: Callable[[bytes], Route]) -> None:
        with position.lock:
            self._contact_ns = position.contact_ns
            self._rows: RowReader | None = position.rows.snapshot()
        self._position = position
        self._route_of = route_of
        self._routes: dict[str, Route] = {}
        self.generation = self._rows.generation
        """Generation of the snapshot."""

    @property
    def age(self) -> float:
        """Seconds since the rows were last known to be in step with their source; infinite if they never were."""
        now_ns = time.monotonic_ns()
        return max(0.0, (now_ns - self._contact_ns) / 1e9) if self._contact_ns else float("inf")

    def resolve(self, model: str, *, namespace: str | None = None) -> Route:
        """Return the route of `model`, like `shmroute.resolve`, but in this generation.

        Raises:
            ModelNotFound: no app served the model.
            TypeError: `model` is not a str.
        """
        if not isinstance(model, str):
            raise TypeError(f"a model's name is a str, not {type(model).__name__}")
        route = self._routes.get(model)
        if route is None:
            value = self._reader.get(Kind.MODEL, model)
            if value is None:
                raise ModelNotFound(model, namespace)
            route = self._routes[model] = self._with_metadata(self._route_of(value))
        return route_in(route, namespace)

    def get(self, model: str, default: T | None = None, *, namespace: str | None = None) -> Route | T | None:
        """Do the same as `resolve`, but return `default` instead of raising `ModelNotFound`."""
        try:
            return self.resolve(model, namespace=namespace)
        except ModelNotFound:
            return default

    def models(self) -> dict[str, Route]:
        """Return all routes: model -> route."""
        found = [(key, value) for _, key, value in self._reader.rows(Kind.MODEL)]
        return {key: self._with_metadata(self._route_of(value)) for key, value in found}

    @overload
    def table(self, name: Literal["models"]) -> TableView[Route]: ...
    @overload
    def table(self, name: Literal["apps"]) -> TableView[App]: ...
    @overload
    def table(self, name: Literal["endpoints"]) -> TableView[tuple[Endpoint, ...]]: ...
    @overload
    def table(self, name: str) -> TableView[Any]: ...
    @overload
    def table(self, name: str, type: type[T]) -> TableView[T]: ...
    def table(self, name: str, type: Any = Any) -> TableView[Any]:  # noqa: A002 - as msgspec calls it
        """Return the table `name` as a read-only mapping. Name and `type` are as for `shmroute.table`.

        The addresses in the table `endpoints` are those of this generation; those of a `Route` are the current ones.

        Raises:
            TableNotReady, TableNotFound: in this generation the table was not ready, or did not exist.
            TypeError: as `shmroute.table`.
        """
        check_table(name, type)
        table = ready_row(name, self._position.area, table_row(self._position, self._reader, name))
        match name:
            case "models":
                return _BuiltIn(self, table, name, lambda row: self._with_metadata(self._route_of(row)), self._routes)
            case "apps":
                return _BuiltIn(self, table, name, decode_app, {})
            case "endpoints":
                return _BuiltIn(self, table, name, decode_endpoints, {})
        return _Table(self, table, name, decoder(type), {})

    def close(self) -> None:
        """Release the rows, as the end of a `with` block does."""
        self._rows = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<shmroute.Snapshot of area {self._position.area!r} at generation {self.generation}>"

    @property
    def _reader(self) -> RowReader:
        if self._rows is None:
            raise SnapshotExpired(self._position.area, self.generation)
        return self._rows

    def _with_metadata(self, route: Route) -> Route:
        for each in (route, *route.others):
            msgspec.structs.force_setattr(each, "_parts", Parts(self._metadata_of(each)))
        return route

    def _metadata_of(self, route: Route) -> MetadataValue:
        value = self._reader.get(Kind.METADATA, f"{route.namespace}/{route.model}")
        row = self._position.decoded(decode_row, value) if value is not None else None
        return MetadataValue(route.model, row, lambda: row.value if row is not None else None)


class _Table(TableView[T], Generic[T]):
    """A table of a snapshot."""

    def __init__(
        self, snapshot: Snapshot, table: TableRow, name: str, decode: Callable[[bytes], T], values: dict[str, T]
    ) -> None:
        super().__init__(name, decode)
        self._snapshot = snapshot
        self._table = table
        self._values = values
        """The decoded values: key -> value."""

    def __getitem__(self, key: str) -> T:
        if key in self._values:
            return self._values[key]
        row = self._read(lambda rows, table: rows.get(table.number, key)) if isinstance(key, str) else None
        if row is None:
            raise KeyError(key)
        value = self._values[key] = self._value(key, row)
        return value

    def _read(self, read: Callable[[RowReader, TableRow], R]) -> R:
        return read(self._snapshot._reader, self._table)

    def __repr__(self) -> str:
        return f"<table {self.name!r} of {self._snapshot!r}>"


class _BuiltIn(_Table[T]):
    """A table of a snapshot whose rows exist without a declaration."""

    def _value(self, key: str, row: bytes) -> T:  # noqa: ARG002 - the type is ours: a row that does not fit is damaged
        return self._snapshot._position.decoded(self._decode, row)
