"""What a worker uses: `resolve`, `get` and `Reader`. One word compared and one dict asked, and the answer is there.

Called in users' hottest path, from any thread, before and after a fork. Imports nothing of the watcher's side.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from itertools import islice
from typing import Any, Final, Protocol, Self, TypeVar

import msgspec

from shmroute.errors import AppNotFound, LayoutMismatch, ModelNotFound, NotReady, StaleRoutes
from shmroute.metadata_value import MetadataValue
from shmroute.picking import Pool
from shmroute.routes import App, Route
from shmroute.rows import EndpointsRow, Kind, MetadataRow
from shmroute.shm.reader import RowReader

__all__ = ["DEFAULT_AREA", "Reader", "get", "resolve"]

DEFAULT_AREA: Final = "default"

MEMO_ROWS: Final = 131_072
"""Rows a worker keeps decoded, about 0.5 KiB each: a bound, and room for every hot set we have met."""

_EVICTED_FRACTION: Final = 8
"""A full memo lets go of its oldest eighth at once: dropping one row at a time would walk the dict's dead entries."""

_WAIT_STEP_SECONDS: Final = 0.005
_NANOSECONDS: Final = 1_000_000_000

T = TypeVar("T")

_decode_route = msgspec.msgpack.Decoder(Route).decode
_decode_apps = msgspec.msgpack.Decoder(tuple[App, ...]).decode
_decode_endpoints = msgspec.msgpack.Decoder(EndpointsRow).decode
_decode_metadata = msgspec.msgpack.Decoder(MetadataRow).decode
_bind = msgspec.structs.force_setattr

_NEVER: Final = memoryview(b"\0\0\0\0\0\0\xf8\x7f").cast("d", shape=())
"""The word of a reader that is not attached: a NaN, which equals nothing, not even itself."""


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
        StaleRoutes: the routes are older than `max_age`.
        LayoutMismatch: the area cannot be read at all.

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
        self._area = area
        self._memo_rows = memo_rows
        self._wait_seconds = wait_seconds
        self._zone = zone
        self._lock = threading.Lock()
        self._rows: RowReader | None = None
        self._parts: dict[tuple[int, str], Any] = {}
        self._busy: dict[str, int] = {}
        self._fault: LayoutMismatch | None = None
        self._fault_ns = 0
        self.resolve, self._memo, self._absent, self._point = _make_resolve(self)
        self._head: memoryview[float] = _NEVER
        self._seen = 0.0
        _readers.add(self)

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
            AppNotFound, NotReady, LayoutMismatch
        """
        found = self._part(Kind.APP, name, lambda value: _decode_apps(value) if value else ())
        for app in found:
            if namespace is None or app.namespace == namespace:
                return app
        raise AppNotFound(name, namespace)

    def models(self) -> dict[str, Route]:
        """All routes by model name, of one generation, decoded now: a copy of the whole table, for listings."""
        routes = (_decode_route(value) for _, _, value in self._fresh_rows().rows(Kind.MODEL))
        return {route.model: self._bound(route) for route in routes}

    def apps(self) -> dict[str, App]:
        """All apps by name, of one generation; the oldest AppModel's entry where several name one app."""
        found = (_decode_apps(value) for _, _, value in self._fresh_rows().rows(Kind.APP))
        return {apps[0].app: apps[0] for apps in found}

    def pool_of(self, route: Route) -> Pool:
        """The endpoints of the route's app, as they are now. For `Route`."""
        key = f"{route.namespace}/{route.appmodel}"
        zone = self._zone if self._zone is not None else os.environ.get("SHMROUTE_ZONE", "")
        return self._part(
            Kind.ENDPOINTS,
            key,
            lambda value: Pool(route.app, _decode_endpoints(value) if value else None, zone, self._busy),
        )

    def metadata_of(self, route: Route) -> MetadataValue:
        """The metadata of the route's model, as it is now. For `Route`."""

        key = f"{route.namespace}/{route.model}"

        def decode(value: bytes | None) -> MetadataValue:
            row = _decode_metadata(value) if value else None
            return MetadataValue(route.model, row, lambda: self._metadata_bytes(key))

        return self._part(Kind.METADATA, key, decode)

    def _metadata_bytes(self, key: str) -> bytes | None:
        """The value in a METADATA row as it is now. Not remembered: each worker would have a copy of its own."""
        with self._lock:
            value = self._refresh().get(Kind.METADATA, key)
        return _decode_metadata(value).value if value else None

    def is_current(self, part: Pool | MetadataValue) -> bool:
        """Whether what was decoded from a row still stands, at this moment's generation. For `Route`."""
        if self._head[()] != self._seen:
            with self._lock:
                self._refresh()
        return not part.stale

    # --- state ---------------------------------------------------------------------------------------------

    @property
    def area(self) -> str:
        """The area's name."""
        return self._area or os.environ.get("SHMROUTE_AREA") or DEFAULT_AREA

    @property
    def generation(self) -> int:
        """The generation that look-ups answer from.

        Raises:
            NotReady, LayoutMismatch
        """
        return self._attached().generation

    @property
    def age(self) -> float:
        """Seconds since the routes were last known to be in step with their source; infinite before the first.

        On the monotonic clock, which is one for all processes of a machine.
        """
        try:
            contact = self._attached().control.contact_ns
        except NotReady:
            return float("inf")
        if self._fault is not None:
            contact = min(contact, self._fault_ns)
        return max(0.0, (time.monotonic_ns() - contact) / _NANOSECONDS) if contact else float("inf")

    def stale(self, max_age: float) -> bool:
        """Whether the routes are older than `max_age` seconds."""
        return self.age > max_age

    @property
    def synced(self) -> bool:
        """Whether the present watcher has published a complete list of its own."""
        try:
            return self._attached().control.synced
        except NotReady:
            return False

    @property
    def fault(self) -> LayoutMismatch | None:
        """Why the newest generation is not the one answered from; None while it is."""
        return self._fault

    def attach(self) -> None:
        """Attach now, without waiting, rather than at the first look-up.

        Raises:
            NotReady, LayoutMismatch
        """
        self._attached(wait=False)

    def choose(self, area: str | None) -> None:
        """Read another area from the next attach on. For `use_area`."""
        self._area = area

    def wait_ready(self, timeout: float) -> None:
        """Wait until there is something to answer from.

        Raises:
            NotReady: not within `timeout` seconds.
        """
        started = time.monotonic()
        while True:
            try:
                self._attached(wait=False)
            except NotReady:
                waited = time.monotonic() - started
                if waited >= timeout:
                    raise NotReady(self.area, waited) from None
                time.sleep(min(_WAIT_STEP_SECONDS, timeout - waited))
            else:
                return

    def close(self) -> None:
        """Let go of the mapping and of all that was decoded. A later look-up attaches again."""
        with self._lock:
            self._detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside --------------------------------------------------------------------------------------------

    def _attached(self, *, wait: bool = True) -> RowReader:
        """The row reader at the newest generation."""
        while True:
            with self._lock:
                try:
                    return self._refresh()
                except NotReady:
                    if not wait:
                        raise
                    seconds = self._wait_seconds
            if seconds is None:
                seconds = float(os.environ.get("SHMROUTE_WAIT") or 0)
            if seconds <= 0:
                raise NotReady(self.area)
            wait = False
            self.wait_ready(seconds)

    def _fresh_rows(self) -> RowReader:
        """A row reader of its own, so that a long listing holds nobody up."""
        self._attached()
        return RowReader(self.area)

    def _refresh(self) -> RowReader:
        """Go to the newest generation and forget what it changed. With the lock held."""
        rows = self._rows
        if rows is None:
            rows = self._rows = RowReader(self.area)
            self._head = rows.control.head
        elif self._head[()] == self._seen:
            return rows
        if rows.control.retired:
            return self._attach_again(rows)
        seen = float(self._head[()])
        try:
            changed = rows.refresh()
        except LayoutMismatch as error:
            self._fault, self._fault_ns = error, self._fault_ns or time.monotonic_ns()
            changed = []
            import logging

            logging.getLogger(__name__).warning(
                "generation %d of area %s cannot be read, answering from %d: %s",
                int(seen),
                self.area,
                rows.generation,
                error,
            )
        else:
            self._fault, self._fault_ns = None, 0
            seen = float(rows.generation)
        if changed is None:
            self._forget_all()
        else:
            self._forget(changed)
        self._seen = seen
        self._point(self._head, seen)
        return rows

    def _attach_again(self, retired: RowReader) -> RowReader:
        """Go to the new area of this name; while there is none, stay with the rows of the retired one."""
        try:
            rows = RowReader(self.area)
        except NotReady:
            return retired
        self._forget_all()
        self._rows = rows
        self._head = rows.control.head
        self._seen = float(rows.generation)
        self._point(self._head, self._seen)
        return rows

    def _forget(self, changed: list[tuple[int, bytes]]) -> None:
        memo, absent, parts = self._memo, self._absent, self._parts
        for kind, encoded in changed:
            key = encoded.decode()
            if kind == Kind.MODEL:
                memo.pop(key, None)
                absent.pop(key, None)
            else:
                part = parts.pop((kind, key), None)
                if part is not None and kind in _HELD_BY_ROUTES:
                    part.stale = True

    def _forget_all(self) -> None:
        self._memo.clear()
        self._absent.clear()
        for (kind, _), part in self._parts.items():
            if kind in _HELD_BY_ROUTES:
                part.stale = True
        self._parts.clear()

    def _detach(self) -> None:
        self._forget_all()
        self._rows = None
        self._head = _NEVER
        self._point(_NEVER, 0.0)

    def _part(self, kind: Kind, key: str, decode: Callable[[bytes | None], T]) -> T:
        """What `decode` makes of a row other than a model's, remembered until the row changes."""
        self._attached()
        with self._lock:
            rows = self._refresh()
            part: T | None = self._parts.get((kind, key))
            if part is None:
                part = decode(rows.get(kind, key))
                _make_room(self._parts, self._memo_rows)
                self._parts[kind, key] = part
            return part

    def _bound(self, route: Route) -> Route:
        _bind(route, "_reader", self)
        for other in route.others:
            _bind(other, "_reader", self)
        return route

    def load(self, model: str) -> Route:
        """First touch of a model in this process since its row changed. For the memo.

        Raises:
            ModelNotFound, LayoutMismatch
        """
        with self._lock:
            rows = self._rows
            if rows is None:
                raise NotReady(self.area)
            if model in self._absent:
                raise ModelNotFound(model)
            value = rows.get(Kind.MODEL, model)
            if value is None:
                _make_room(self._absent, self._memo_rows)
                self._absent[model] = None
                raise ModelNotFound(model)
            route = self._bound(_decode_route(value))
            _make_room(self._memo, self._memo_rows)
            self._memo[model] = route
            return route

    def look_up(self, model: str, namespace: str | None, max_age: float | None) -> Route:
        """A look-up that is not just a memo's hit: first use, a new generation, or options. For `resolve`."""
        if not isinstance(model, str):
            raise TypeError(f"a model's name is a str, not {type(model).__name__}")
        self._attached()
        if max_age is not None and (age := self.age) > max_age:
            raise StaleRoutes(age, max_age)
        route = self._memo[model]
        if namespace is None or route.namespace == namespace:
            return route
        for other in route.others:
            if other.namespace == namespace:
                return other
        raise ModelNotFound(model, namespace)


_HELD_BY_ROUTES: Final = (Kind.ENDPOINTS, Kind.METADATA)
"""Kinds whose decoded rows are kept by routes too, and must be told when they are out of date."""


def _make_room(memo: dict[Any, Any], limit: int) -> None:
    """Let the oldest entries of a full memo go."""
    if len(memo) >= limit:
        for key in list(islice(memo, max(1, limit // _EVICTED_FRACTION))):
            del memo[key]


def _make_resolve(
    reader: Reader,
) -> tuple[Resolve, dict[str, Route], dict[str, None], Callable[[memoryview[float], float], None]]:
    """The hot path of one reader: `resolve`, the memos it fills, and the function that points it at a word."""
    head = _NEVER
    seen = 0.0
    look_up = reader.look_up
    load = reader.load

    class Memo(dict[str, Route]):
        """Routes already decoded; a miss loads one."""

        __slots__ = ()

        def __missing__(self, model: str) -> Route:
            return load(model)

    memo: dict[str, Route] = Memo()

    def resolve(model: str, namespace: str | None = None, max_age: float | None = None) -> Route:
        """Which app serves `model`: see `shmroute.Reader.resolve`."""
        if head[()] == seen and namespace is None and max_age is None:
            return memo[model]
        return look_up(model, namespace, max_age)

    def point(new_head: memoryview[float], new_seen: float) -> None:
        nonlocal head, seen
        seen = float("nan")
        head = new_head
        seen = new_seen

    return resolve, memo, {}, point


_readers: Final[weakref.WeakSet[Reader]] = weakref.WeakSet()
"""All readers of this process: a fork waits until none is in the middle of a change, so that a child starts whole."""


def _before_fork() -> None:
    for reader in list(_readers):
        reader._lock.acquire()


def _after_fork() -> None:
    for reader in list(_readers):
        reader._lock.release()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork, after_in_parent=_after_fork)

_default: Final = Reader()

resolve: Final[Resolve] = _default.resolve
"""`Reader.resolve` of this process's default reader, whose area is `SHMROUTE_AREA`, else "default"."""

get: Final = _default.get
"""`Reader.get` of this process's default reader."""


def use_area(area: str | None) -> None:
    """Point this process's default reader at another area; None means `SHMROUTE_AREA` again. For tests."""
    _default.close()
    _default.choose(area)


def attach() -> None:
    """Attach this process's default reader now rather than at its first look-up, if there is a snapshot.

    Raises:
        NotReady, LayoutMismatch
    """
    _default.attach()
