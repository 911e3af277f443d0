"""`Reader`: look-ups in one area, for all threads of a process. Never imports the watcher's half."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar, overload

import msgspec

from shmroute.errors import (
    AppNotFound,
    AreaUnreadable,
    ModelNotFound,
    NoAccess,
    NotReady,
    SnapshotExpired,
    StaleRoutes,
)
from shmroute.kinds import BUILT_IN_TABLES, Kind
from shmroute.worker.binding import ReaderBinding
from shmroute.worker.lookup import RouteLookup
from shmroute.worker.position import Position
from shmroute.worker.routes import Route, route_in
from shmroute.worker.row_cache import CACHED_ROWS, make_room

if TYPE_CHECKING:
    from shmroute.rows import App
    from shmroute.worker.changes import AsyncChanges, Change, Changes, Reset
    from shmroute.worker.endpoints import Endpoint
    from shmroute.worker.snapshot import Snapshot
    from shmroute.worker.tables import Table

_WAIT_STEP_SECONDS: Final = 0.005

_MODEL: Final = int(Kind.MODEL)
"""The kind as a plain int, which is faster than an enum member as a key of a dict."""

_TABLES: Final = 256
"""Largest number of tables that a reader caches. A program uses a few; names from requests must not fill the memory."""

_STRINGS_OF_A_ROUTE: Final = Route.__struct_fields__.index("others")
"""Number of string fields before `others`. The native look-up makes a route from them without a decoder."""

T = TypeVar("T")


def _describe(position: Position, kind: Kind, name: str, namespace: str | None) -> str:
    from shmroute.worker.similar_names import describe

    return describe(position.area, kind, name, namespace)


class Reader(RouteLookup):
    """Look-ups in one area, from any thread, before and after a fork. Attaches on first use.

    Args:
        area: the area's name; by default `SHMROUTE_AREA`, else "default".
        memo_rows: maximum number of decoded rows.
        zone: this process's zone, for `Route.pick`; by default `SHMROUTE_ZONE`.

    A look-up never waits: before the first snapshot it raises `NotReady`; `wait_ready` waits. If the watcher dies,
    freezes or loses its source, a reader keeps answering from its mapped memory, and `age` grows. If the newest
    generation cannot be read, a reader answers from the one before, and `fault` says why.
    """

    def __init__(self, area: str | None = None, *, memo_rows: int = CACHED_ROWS, zone: str | None = None) -> None:
        self._position = Position(area, memo_rows)
        self._binding = ReaderBinding(self._position, zone)
        route_type = self._binding.route_type()
        self._decode_route = msgspec.msgpack.Decoder(route_type).decode
        super().__init__(
            Kind.MODEL,
            self._decode_route,
            msgspec.DecodeError,
            memo_rows,
            route_type,
            _STRINGS_OF_A_ROUTE,
            Kind.METADATA,
        )
        self._position.serve(self, Kind.MODEL)
        self._tables: dict[tuple[str, Any], Table[Any]] = {}

    # --- look-ups ------------------------------------------------------------------------------------------

    def _look_up(self, model: str, namespace: str | None, max_age: float | None) -> Route:
        if not isinstance(model, str):
            raise TypeError(f"a model's name is a str, not {type(model).__name__}")
        position = self._position
        with position.lock:
            rows = position.current
            if rows is None or position.word[()] != position.seen:
                rows = position.refresh()
            if max_age is not None and not (age := self.age) <= max_age:  # true for NaN too
                raise StaleRoutes(age, max_age, self._steady_seconds())
            route = self._cache.get(model)
            if route is None:
                if model in position.absent:
                    raise self._not_found(model, namespace)
                moves = position.moves
                try:
                    value = rows.get(_MODEL, model)
                except SnapshotExpired:
                    value = position.row(Kind.MODEL, model)
                if value is None:
                    if position.moves == moves:
                        position.remember_absent(model)
                    raise self._not_found(model, namespace)
                try:
                    route = self._decode_route(value)
                except msgspec.DecodeError:
                    route = self._route_of(value)  # raises AreaUnreadable with an explanation
                if position.moves == moves:  # else a signal handler's look-up has moved the position meanwhile
                    if len(self._cache) >= position.cached_rows:
                        make_room(self._cache, position.cached_rows)
                    self._cache[route.model] = route
        if namespace is None:
            return route
        try:
            return route_in(route, namespace)
        except ModelNotFound:
            raise self._not_found(model, namespace) from None

    def _not_found(self, model: str, namespace: str | None) -> ModelNotFound:
        self._position.misses += 1
        return ModelNotFound(model, namespace).with_hint(
            partial(_describe, self._position, Kind.MODEL, model, namespace)
        )

    def _steady_seconds(self) -> float:
        """Return the largest age in normal operation, in seconds; 0 if unknown. Needs the position's lock."""
        from shmroute.rows import SettingsRow

        row = self._position.row(Kind.SETTINGS, "")
        return msgspec.msgpack.decode(row, type=SettingsRow).steady_seconds if row is not None else 0.0

    def get(self, model: str, default: T | None = None, *, namespace: str | None = None) -> Route | T | None:
        """Do the same as `resolve`, but return `default` instead of raising `ModelNotFound`.

        Raises:
            NotReady, AreaUnreadable, NoAccess, TypeError: as `resolve`.
        """
        try:
            return self.resolve(model, namespace=namespace)
        except ModelNotFound:
            return default

    def app(self, name: str, *, namespace: str | None = None) -> App:
        """Return the data of the app's AppModel; the oldest one if several AppModels name the app.

        Raises:
            AppNotFound: no AppModel names the app (in that namespace).
            NotReady, AreaUnreadable, NoAccess: as `resolve`.
        """
        from shmroute.worker.built_in import decode_apps

        found = self._position.part(Kind.APP, name, lambda value: decode_apps(value) if value else ())
        for app in found:
            if namespace is None or app.namespace == namespace:
                return app
        raise AppNotFound(name, namespace).with_hint(partial(_describe, self._position, Kind.APP, name, namespace))

    def models(self) -> dict[str, Route]:
        """Return all routes of one generation: model -> route. Decodes all rows at each call: for listings."""
        return {key: self._route_of(value) for key, value in self._position.listing(Kind.MODEL)}

    def apps(self) -> dict[str, App]:
        """Return all apps of one generation: name -> app; the oldest AppModel's entry if several name the app."""
        from shmroute.worker.built_in import decode_app

        listing = self._position.listing(Kind.APP)
        return {key: self._position.decoded(decode_app, value) for key, value in listing}

    @overload
    def table(self, name: Literal["models"]) -> Table[Route]: ...
    @overload
    def table(self, name: Literal["apps"]) -> Table[App]: ...
    @overload
    def table(self, name: Literal["endpoints"]) -> Table[tuple[Endpoint, ...]]: ...
    @overload
    def table(self, name: str) -> Table[Any]: ...
    @overload
    def table(self, name: str, type: type[T]) -> Table[T]: ...
    def table(self, name: str, type: Any = Any) -> Table[Any]:  # noqa: A002 - as msgspec calls it
        """Return the table `name`, whose values are decoded into `type`.

        Reads nothing yet: the table may be declared later. `type` is any type that msgspec decodes: a Struct, a
        dataclass, a TypedDict; by default plain dicts, lists and numbers. The same arguments return the same table, so
        that calling this for each request does not lose its decoded values.

        `models`, `apps` and `endpoints` need no declaration. Their values are `Route`, `App` and tuples of `Endpoint`.

        Raises:
            TypeError: `name` is not a str, or is a built-in table's and `type` is another than that of its values.
        """
        table = self._tables.get((name, type)) if isinstance(name, str) else None
        return table if table is not None else self._new_table(name, type)

    def _new_table(self, name: str, type: Any) -> Table[Any]:  # noqa: A002 - as msgspec calls it
        """Check the arguments of `table`, and make the table unless one of other arguments is the same."""
        from shmroute.worker.built_in import check_table

        check_table(name, type)
        if name in BUILT_IN_TABLES:
            type = Any  # noqa: A001 - whether its type is named or not
        table = self._tables.get((name, type))
        if table is None:
            make_room(self._tables, _TABLES)
            table = self._tables[name, type] = self._make_table(name, type)
        return table

    def _make_table(self, name: str, type: Any) -> Table[Any]:  # noqa: A002 - as msgspec calls it
        from shmroute.worker.built_in import BuiltInTable, Models, decode_app, decode_endpoints
        from shmroute.worker.table_view import decoder
        from shmroute.worker.tables import Table

        match name:
            case "models":
                return Models(self._position, self._decode_route, self.resolve)
            case "apps":
                return BuiltInTable(self._position, name, decode_app)
            case "endpoints":
                return BuiltInTable(self._position, name, decode_endpoints)
        return Table(self._position, name, decoder(type))

    def snapshot(self) -> Snapshot:
        """Return the routes and tables of the newest generation as an immutable view: see `Snapshot`.

        Raises:
            NotReady, AreaUnreadable, NoAccess: as `resolve`.
        """
        from shmroute.worker.snapshot import Snapshot

        return Snapshot(self._position, self._route_of)

    def changes(
        self, since: int | None = None, *, timeout: float | None = None, metadata: bool = False
    ) -> Changes[Change | Reset]:
        """Iterate over the changes of the routes since generation `since`, and over new ones as they are published.

            for change in reader.changes():
                if isinstance(change, Reset):
                    ...  # all routes: at the start, or after a gap
                else:
                    ...  # change.kind, change.model, change.old, change.new

        Without `since`, or if the log does not reach back to it (it reaches at least to the newest base), a `Reset`
        with all routes comes first. A generation is valid only while this area exists: do not store it for longer.

        Args:
            since: the generation whose routes the caller has.
            timeout: end after this many seconds without a change; 0: only the changes so far; None: never end.
            metadata: report changes of a model's metadata too.

        The iterator also waits for the first snapshot, checks for changes at least every 10 ms, and ends when this
        reader is closed. If a generation cannot be read, `fault` says why, and its changes follow later.

        Raises (while it is iterated):
            AreaUnreadable, NoAccess: the area cannot be read at all.
        """
        from shmroute.worker.changes import Changes, RouteFollower

        return Changes(RouteFollower(self._position, self._route_of, since, metadata), timeout)

    def achanges(
        self, since: int | None = None, *, timeout: float | None = None, metadata: bool = False
    ) -> AsyncChanges[Change | Reset]:
        """Return the same iterator as `changes`, for `async for`."""
        from shmroute.worker.changes import AsyncChanges, RouteFollower

        return AsyncChanges(RouteFollower(self._position, self._route_of, since, metadata), timeout)

    def _route_of(self, value: bytes) -> Route:
        """Return the route in a MODEL row."""
        return self._position.decoded(self._decode_route, value)

    # --- state ---------------------------------------------------------------------------------------------

    @property
    def area(self) -> str:
        """The area's name."""
        return self._position.area

    @property
    def generation(self) -> int:
        """The generation that look-ups answer from.

        Raises:
            NotReady, AreaUnreadable, NoAccess
        """
        return self._position.newest().generation

    @property
    def age(self) -> float:
        """Seconds since the routes were last known to be in step with their source; infinite before the first time.

        Measured on the monotonic clock, which all processes of a machine share.

        Raises:
            AreaUnreadable, NoAccess: the area cannot be read at all.
        """
        return self._position.age

    @property
    def misses(self) -> int:
        """Look-ups of this process that found no app for the model. Threads that miss at once may count one too few."""
        return self._position.misses

    def stale(self, max_age: float) -> bool:
        """Return whether the routes are older than `max_age` seconds."""
        return not self.age <= max_age

    @property
    def synced(self) -> bool:
        """Whether the current watcher has published a complete list of its own."""
        try:
            return self._position.newest().control.synced
        except NotReady:
            return False

    @property
    def fault(self) -> AreaUnreadable | NoAccess | None:
        """Reason why the newest generation cannot be read, so that look-ups answer from an older one; None: no fault.

        The reader tries again at each newer generation, and once per second.
        """
        return self._position.fault

    def attach(self) -> None:
        """Attach now rather than at the first look-up. Does not wait.

        Raises:
            NotReady, AreaUnreadable, NoAccess
        """
        self._position.newest()

    def wait_ready(self, timeout: float) -> None:
        """Wait until there are routes. Blocks this thread: in a coroutine, call it by `asyncio.to_thread`.

        Raises:
            NotReady: there are no routes after `timeout` seconds.
            AreaUnreadable, NoAccess: after `timeout` seconds the area cannot be read. A watcher of another version
                leaves such an area behind, until a new one takes over.
        """
        started = time.monotonic()
        while True:
            try:
                self._position.newest()
            except (NotReady, AreaUnreadable, NoAccess) as error:
                waited = time.monotonic() - started
                if not waited < timeout:
                    if isinstance(error, NotReady):
                        raise NotReady(self.area, waited) from None
                    raise
                time.sleep(min(_WAIT_STEP_SECONDS, timeout - waited))
            else:
                return

    def close(self) -> None:
        """Release the mapping and all decoded rows. A later look-up attaches again."""
        self._position.leave()

    def _set_area(self, area: str | None) -> None:
        """Close this reader, and read another area from the next look-up on."""
        self.close()
        self._position.named_area = area

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
