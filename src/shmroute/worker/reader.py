"""`Reader`: look-ups in one area. One word compared and one dict asked, and the answer is there.

Called in users' hottest path, from any thread, before and after a fork. Imports nothing of the watcher's side.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar

import msgspec

from shmroute.errors import AppNotFound, AreaUnreadable, ModelNotFound, NoAccess, NotReady, StaleRoutes
from shmroute.rows import EndpointsRow, Kind
from shmroute.shm.reader import RowReader
from shmroute.worker import environment
from shmroute.worker.binding import Home
from shmroute.worker.endpoints import Busy, Pool
from shmroute.worker.forks import watch_over
from shmroute.worker.lookup import NEVER, HotPath
from shmroute.worker.metadata import MetadataValue, bytes_in, decode_row
from shmroute.worker.routes import App, Route
from shmroute.worker.row_cache import MEMO_ROWS, Parts, make_room

if TYPE_CHECKING:
    from shmroute.worker.changes import AsyncChanges, Changes

__all__ = ["Reader", "Resolve"]

_MAX_ABSENT_NAME: Final = 512
"""Names longer than this (characters) are not remembered as absent: whoever asks for a model may have made them up."""

_RETRY_NS: Final = 1_000_000_000
"""How soon a generation that could not be read is tried again, when no newer one comes: the reason may pass."""

_WAIT_STEP_SECONDS: Final = 0.005
_NANOSECONDS: Final = 1_000_000_000

T = TypeVar("T")
V = TypeVar("V")

_decode_apps = msgspec.msgpack.Decoder(tuple[App, ...]).decode
_decode_endpoints = msgspec.msgpack.Decoder(EndpointsRow).decode


class Resolve(Protocol):
    """The look-up; see `Reader.resolve`."""

    def __call__(self, model: str, *, namespace: str | None = None, max_age: float | None = None) -> Route: ...


class Reader:
    """Look-ups in one area, for all threads of this process. Attaches on first use.

    Args:
        area: the area's name; by default `SHMROUTE_AREA`, else "default".
        memo_rows: how many rows are kept decoded.
        wait_seconds: how long a look-up may wait for the first snapshot; by default `SHMROUTE_WAIT`, else 0.
        zone: this process's zone, for `Route.pick`; by default `SHMROUTE_ZONE`.

    A reader goes on answering from what it has mapped when the watcher dies, freezes or loses its source; `age` tells.
    If what was published last cannot be read, it stays at the generation before, and `fault` tells.
    """

    resolve: Resolve
    """`resolve(model, *, namespace=None, max_age=None) -> Route`: which app serves `model`.

    With `namespace` the route in that namespace; without, that of the oldest AppModel. `max_age` in seconds: refuse to
    answer from routes that were last known to be in step with their source longer ago.

    Raises:
        ModelNotFound: no app serves it (a `LookupError`).
        NotReady: nothing has been published yet.
        ConfigError: nothing has been published yet, and `SHMROUTE_WAIT` is no number.
        StaleRoutes: the routes are older than `max_age`.
        AreaUnreadable, NoAccess: the area cannot be read at all.

    A function made for each reader, since going through `self` would add a fifth to the time of a warm look-up. For the
    same reason the two options are keywords by contract only.
    """

    def __init__(
        self,
        area: str | None = None,
        *,
        memo_rows: int = MEMO_ROWS,
        wait_seconds: float | None = None,
        zone: str | None = None,
    ) -> None:
        self.settings: dict[str, Any] = {
            "area": area,
            "memo_rows": memo_rows,
            "wait_seconds": wait_seconds,
            "zone": zone,
        }
        """The arguments, to make another reader like it."""
        self._area = area
        self._memo_rows = memo_rows
        self._wait_seconds = wait_seconds
        self._zone = zone
        self.lock = threading.RLock()
        """Held through every change. Reentrant: a signal's or a logger's handler may look up in the middle of one."""
        self._rows: RowReader | None = None
        self._parts = Parts(memo_rows)
        self._busy: Busy = {}
        self._fault: AreaUnreadable | NoAccess | None = None
        self._fault_ns = 0
        self._contact_ns = 0
        """The last contact when there was no fault."""
        self._retry_ns = 0
        self._unsettled = False
        self._former: RowReader | None = None
        """Where the reader stood before the change that is not settled yet."""
        self.closings = 0
        """How often it has been closed; ends `changes`."""
        self._absent: dict[str, None] = {}
        self._home = Home(self)
        self._decode_route = self._home.decoder()
        self._hot = HotPath(self.look_up, self._decode_route, memo_rows)
        self._memo = self._hot.memo
        self.resolve = self._hot.resolve
        watch_over(self)

    # --- look-ups ------------------------------------------------------------------------------------------

    def get(self, model: str, default: T | None = None, *, namespace: str | None = None) -> Route | T | None:
        """`resolve`, with `default` instead of `ModelNotFound`."""
        try:
            return self.resolve(model, namespace=namespace)
        except ModelNotFound:
            return default

    def app(self, name: str, *, namespace: str | None = None) -> App:
        """What the AppModel of app `name` says; of the oldest one if several name it.

        Raises:
            AppNotFound, NotReady, AreaUnreadable, NoAccess
        """
        found = self._part(Kind.APP, name, lambda value: _decode_apps(value) if value else ())
        for app in found:
            if namespace is None or app.namespace == namespace:
                return app
        raise AppNotFound(name, namespace)

    def models(self) -> dict[str, Route]:
        """All routes by model name, of one generation, decoded now: a copy of the whole table, for listings."""
        rows = self._attached().snapshot()  # so that a long listing holds nobody up
        return {key: self.route_of(value) for _, key, value in rows.rows(Kind.MODEL)}

    def apps(self) -> dict[str, App]:
        """All apps by name, of one generation; the oldest AppModel's entry where several name one app."""
        rows = self._attached().snapshot()
        return {key: self._decoded(_decode_apps, value)[0] for _, key, value in rows.rows(Kind.APP)}

    def changes(self, since: int | None = None, *, timeout: float | None = None, metadata: bool = False) -> Changes:
        """What became of the routes since generation `since`, and from then on as it happens.

            for change in reader.changes():
                if isinstance(change, Reset):
                    ...  # all routes: the beginning, or a new one
                else:
                    ...  # change.kind, change.model, change.old, change.new

        Without `since`, or where the log does not reach back to it (it does to some older generation, at least to the
        newest base), a `Reset` with all routes comes first. A generation is a number of this area while it exists:
        do not keep one for longer.

        Args:
            since: the generation whose routes the caller has.
            timeout: end when so many seconds have brought no news; 0 gives what is there; None waits for ever.
            metadata: tell also when a model's metadata has changed.

        The iterator waits for the first snapshot too, looks again every 10 ms at the longest, and ends when this reader
        is closed. What cannot be read meanwhile is told by `fault`, and caught up with later.

        Raises (while it is iterated):
            AreaUnreadable, NoAccess: the area cannot be read at all.
        """
        from shmroute.worker.changes import Changes

        return Changes(self, since, timeout, metadata=metadata)

    def achanges(
        self, since: int | None = None, *, timeout: float | None = None, metadata: bool = False
    ) -> AsyncChanges:
        """`changes`, for `async for`."""
        from shmroute.worker.changes import AsyncChanges

        return AsyncChanges(self, since, timeout, metadata=metadata)

    def pool_of(self, route: Route) -> Pool:
        """The endpoints of the route's app, as they are now. For `Route`."""
        key = f"{route.namespace}/{route.appmodel}"
        zone = self._zone if self._zone is not None else environment.zone()
        return self._part(
            Kind.ENDPOINTS,
            key,
            lambda value: Pool(route.app, _decode_endpoints(value) if value else None, zone, self._busy),
        )

    def metadata_of(self, route: Route) -> MetadataValue:
        """The metadata of the route's model, as it is now. For `Route`."""

        key = f"{route.namespace}/{route.model}"

        def decode(value: bytes | None) -> MetadataValue:
            row = decode_row(value) if value else None
            return MetadataValue(route.model, row, lambda: self._metadata_bytes(key, metadata))

        metadata = self._part(Kind.METADATA, key, decode)
        return metadata

    def _metadata_bytes(self, key: str, metadata: MetadataValue) -> bytes | None:
        """The value in a METADATA row. Not remembered: each worker would have a copy of its own."""
        with self.lock:
            rows = self._refresh()
            if not metadata.stale:
                return bytes_in(rows, key)
        return metadata.raw  # the row has just changed, and `metadata` has been told where its own value is

    def go_on(self) -> None:
        """Go to the newest generation, so that what it changed is marked. For `Home`."""
        with self.lock:
            self._refresh()

    # --- state ---------------------------------------------------------------------------------------------

    @property
    def area(self) -> str:
        """The area's name."""
        return self._area or environment.area()

    @property
    def generation(self) -> int:
        """The generation that look-ups answer from.

        Raises:
            NotReady, AreaUnreadable, NoAccess
        """
        return self._attached(wait=False).generation

    @property
    def age(self) -> float:
        """Seconds since the routes were last known to be in step with their source; infinite before the first.

        On the monotonic clock, which is one for all processes of a machine.

        Raises:
            AreaUnreadable, NoAccess: the area cannot be read at all.
        """
        try:
            contact = self._attached(wait=False).control.contact_ns
        except NotReady:
            return float("inf")
        if self._fault is not None:  # which may be that the control block says anything at all
            contact = max(self._contact_ns, min(contact, self._fault_ns))
        return max(0.0, (time.monotonic_ns() - contact) / _NANOSECONDS) if contact else float("inf")

    def stale(self, max_age: float) -> bool:
        """Whether the routes are older than `max_age` seconds."""
        return self.age > max_age

    @property
    def synced(self) -> bool:
        """Whether the present watcher has published a complete list of its own."""
        try:
            return self._attached(wait=False).control.synced
        except NotReady:
            return False

    @property
    def fault(self) -> AreaUnreadable | NoAccess | None:
        """Why the newest generation is not the one answered from; None while it is.

        What could not be read is tried again with each newer generation, and once a second.
        """
        return self._fault

    def attach(self) -> None:
        """Attach now, without waiting, rather than at the first look-up.

        Raises:
            NotReady, AreaUnreadable, NoAccess
        """
        self._attached(wait=False)

    def choose(self, area: str | None) -> None:
        """Read another area from the next attach on. For `use_area`."""
        self._area = area

    def wait_ready(self, timeout: float) -> None:
        """Wait until there is something to answer from.

        Raises:
            NotReady: not within `timeout` seconds.
            AreaUnreadable, NoAccess: all that time there was something that cannot be read, as a watcher of another
                version leaves it until a new one takes over.
        """
        started = time.monotonic()
        while True:
            try:
                self._attached(wait=False)
            except (NotReady, AreaUnreadable, NoAccess) as error:
                waited = time.monotonic() - started
                if waited >= timeout:
                    if isinstance(error, NotReady):
                        raise NotReady(self.area, waited) from None
                    raise
                time.sleep(min(_WAIT_STEP_SECONDS, timeout - waited))
            else:
                return

    def close(self) -> None:
        """Let go of the mapping and of all that was decoded. A later look-up attaches again."""
        with self.lock:
            self.closings += 1
            self._detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside --------------------------------------------------------------------------------------------

    def _attached(self, *, wait: bool = True) -> RowReader:
        """The row reader at the newest generation."""
        while True:
            with self.lock:
                try:
                    return self._refresh()
                except NotReady:
                    if not wait:
                        raise
                    seconds = self._wait_seconds
            if seconds is None:
                seconds = environment.wait_seconds(0.0)
            if seconds <= 0:
                raise NotReady(self.area)
            wait = False
            self.wait_ready(seconds)

    def _refresh(self) -> RowReader:
        """Go to the newest generation and forget what it changed. With the lock held."""
        rows = self._rows
        if rows is None:
            rows = self._rows = RowReader(self.area)
        elif (
            self._home.head[()] == self._home.seen
            and not self._unsettled
            and (not self._retry_ns or time.monotonic_ns() < self._retry_ns)
        ):
            return rows
        # An exception in the middle (a time limit's, raised by a signal) must not leave rows behind that have changed.
        if not self._unsettled:
            self._former = rows.snapshot()
        all_changed, self._unsettled = self._unsettled, True
        self._hot.leave()
        seen = float(rows.control.head[()])
        try:
            changed = rows.refresh()
            fault = None
        except (AreaUnreadable, NoAccess) as error:
            changed = []
            fault = error
        if changed is None or all_changed:
            self._forget_all(self._former)
        else:
            self._forget(changed, self._former)
        self._home.head = rows.control.head
        if fault is None and not rows.control.retired:
            self._home.seen = float(rows.generation)
            self._retry_ns = self._fault_ns = 0
            self._contact_ns = rows.control.contact_ns
            self._hot.point(self._home.head, self._home.seen, rows.quick, rows.live_rows)
        else:
            now_ns = time.monotonic_ns()
            self._home.seen = seen
            self._retry_ns = now_ns + _RETRY_NS
            self._fault_ns = self._fault_ns or now_ns  # the hot path stays left: each look-up is to come by here
        before, self._fault = self._fault, fault
        self._unsettled = False
        self._former = None
        if fault is not None and str(fault) != str(before):
            import logging

            logging.getLogger(__name__).warning(
                "area %s: answering from generation %d, since what follows cannot be read: %s",
                self.area,
                rows.generation,
                fault,
            )
        return rows

    def _forget(self, changed: list[tuple[int, bytes]], former: RowReader | None) -> None:
        memo, absent = self._memo, self._absent
        for kind, encoded in changed:
            key = encoded.decode()
            if kind == Kind.MODEL:
                memo.pop(key, None)
                absent.pop(key, None)
            else:
                if kind == Kind.METADATA:
                    memo.pop(key.partition("/")[2], None)  # a route keeps the metadata it has given out
                self._parts.forget((kind, key), former)

    def _forget_all(self, former: RowReader | None) -> None:
        self._memo.clear()
        self._absent.clear()
        self._parts.forget_all(former)

    def start_in_child(self) -> None:
        """Pick like a worker of its own from here on: not from where the parent, and so all its children, stood."""
        self.lock = threading.RLock()
        self._parts.forget_all(None, [Kind.ENDPOINTS])
        self._busy.clear()

    def _detach(self) -> None:
        self._hot.leave()
        self._forget_all(self._former or (self._rows.snapshot() if self._rows else None))
        self._rows = self._former = None
        self._unsettled = False
        self._home.head = NEVER
        self._fault = None
        self._retry_ns = self._fault_ns = self._contact_ns = 0

    def _part(self, kind: Kind, key: str, decode: Callable[[bytes | None], T]) -> T:
        """What `decode` makes of a row other than a model's, remembered until the row changes."""
        self._attached()
        with self.lock:
            while True:
                rows = self._refresh()
                part: T | None = self._parts.get((kind, key))
                if part is not None:
                    return part
                standing = self._standing(rows)
                part = self._decoded(decode, rows.get(kind, key))
                if self._standing(rows) == standing:
                    self._parts.keep((kind, key), part)
                    return part

    def _decoded(self, decode: Callable[[V], T], value: V) -> T:
        try:
            return decode(value)
        except msgspec.DecodeError as error:
            raise AreaUnreadable(self.area, f"a row is none of shmroute's: {error}") from error

    def snapshot(self) -> RowReader:
        """A view of the rows that look-ups answer from, which stays as it is. For `shmroute.worker.changes`.

        Raises:
            NotReady, AreaUnreadable, NoAccess
        """
        return self._attached(wait=False).snapshot()

    def route_of(self, value: bytes) -> Route:
        """The route in a MODEL row. For `shmroute.worker.changes`.

        Raises:
            AreaUnreadable: it is none.
        """
        return self._decoded(self._decode_route, value)

    def load(self, model: str) -> Route:
        """First touch of a model in this process since its row changed. For the memo.

        Raises:
            ModelNotFound, AreaUnreadable
        """
        with self.lock:
            rows = self._rows or self._refresh()
            standing = self._standing(rows)
            if model in self._absent:
                raise ModelNotFound(model)
            try:
                value = rows.get(Kind.MODEL, model)
            except AttributeError as error:
                raise TypeError(f"a model's name is a str, not {type(model).__name__}") from error
            if value is None:
                if len(model) <= _MAX_ABSENT_NAME and self._standing(rows) == standing:
                    make_room(self._absent, self._memo_rows)
                    self._absent[model] = None
                raise ModelNotFound(model)
            try:
                route = self._decode_route(value)
            except msgspec.DecodeError as error:
                raise AreaUnreadable(self.area, f"the row of model {model!r} is no route: {error}") from error
            if self._standing(rows) == standing:
                make_room(self._memo, self._memo_rows)
                self._memo[model] = route
            return route

    def _standing(self, rows: RowReader) -> tuple[object, ...]:
        """Where the reader stands. The lock is reentrant: a signal's handler may have gone on in the middle of a
        look-up, and what was read before must not be remembered then."""
        return self._rows is rows, rows.control, rows.generation

    def look_up(self, model: str, namespace: str | None, max_age: float | None) -> Route:
        """A look-up that is not just a memo's hit: first use, a new generation, or options. For `resolve`."""
        if not isinstance(model, str):
            raise TypeError(f"a model's name is a str, not {type(model).__name__}")
        self._attached()
        if max_age is not None and (age := self.age) > max_age:
            raise StaleRoutes(age, max_age)
        route = self._memo.get(model) or self.load(model)
        if namespace is None or route.namespace == namespace:
            return route
        for other in route.others:
            if other.namespace == namespace:
                return other
        raise ModelNotFound(model, namespace)
