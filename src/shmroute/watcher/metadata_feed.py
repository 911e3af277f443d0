"""Connects the routes with the metadata loader: requests the wanted version of each model, and makes METADATA rows.

A model whose app and version have not changed costs no read. Each request has a ticket; a value read for an older
ticket is dropped, so that an old value is never published under a new version.

The feed reads MODEL rows rather than AppModels, so that of several claims only the winning one costs a read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from shmroute.metadata.loader import MetadataLoader, MetadataReads
from shmroute.metadata.published import merge_with_published
from shmroute.metadata.scheduler import NOT_READ, MetadataRead, ModelRequest
from shmroute.rows import Kind, MetadataRow, MetadataState, RouteRow, RowKey
from shmroute.tables import Crowded, Room
from shmroute.watcher.metadata_room import MetadataRoom
from shmroute.watcher.status import MetadataStatus

__all__ = ["MetadataFeed", "MetadataReads"]

WAITING_BATCHES: Final = 4
"""Largest number of batches of values that wait for the owner. With batches of 8 MiB they take at most 32 MiB."""

_STOP_CHECK_SECONDS: Final = 0.1

_decode_route = msgspec.msgpack.Decoder(RouteRow).decode

LookUpRow = Callable[[RowKey], "bytes | None"]
"""Returns the newest value of a row, published or waiting to be; None if there is none."""

_Name = tuple[str, str]
"""(namespace, model)"""


class _Wanted(NamedTuple):
    app: str
    version: str
    ticket: int


class MetadataFeed:
    """Turns changed routes into requests, and the values that `loader` reads into rows. Owner thread, except `run`.

    Args:
        loader: reads the values.
        room: bytes that the values of one namespace, and of all, may take. A value without room is set aside and read
            again with the next resync at which it fits; earlier values stay.
    """

    def __init__(self, loader: MetadataLoader, room: Room | None = None) -> None:
        self._loader = loader
        self._values = MetadataRoom(room or Room())
        self._wanted: dict[_Name, _Wanted] = {}
        self._namespaces: dict[str, tuple[str, ...]] = {}
        """Model -> the namespaces that serve it."""
        self._ticket = 0
        self._skipped = 0
        self._room = threading.Semaphore(WAITING_BATCHES)

    def run(self, put: Callable[[MetadataReads], None], stop: threading.Event) -> None:
        """Read the requested values until `stop` is set, and give the results to `put`. Runs in a thread of its own.

        Reading pauses while `WAITING_BATCHES` batches wait for `settle`.
        """

        def hand_over(reads: MetadataReads) -> None:
            while not self._room.acquire(timeout=_STOP_CHECK_SECONDS):
                if stop.is_set():
                    return
            put(reads)

        self._loader.run(hand_over, stop)

    def follow(self, changes: Mapping[RowKey, bytes | None], look_up: LookUpRow) -> dict[RowKey, bytes | None]:
        """Request the values that changed MODEL rows need. Returns the METADATA rows to publish together with them."""
        rows: dict[RowKey, bytes | None] = {}
        routes: list[RouteRow] = []
        gone: list[_Name] = []
        for (kind, model), value in changes.items():
            if kind != Kind.MODEL:
                continue
            route = _decode_route(value) if value is not None else None
            serving = (route, *route.others) if route else ()
            routes += serving
            gone += self._no_longer_serving(model, tuple(each.namespace for each in serving))
        for name in gone:
            self._wanted.pop(name, None)
            self._values.forget(name)
            rows[Kind.METADATA, "/".join(name)] = None
        self._loader.forget(gone)
        rows.update(self._request(routes, look_up))
        return rows

    def want_lost(self, rows: Mapping[RowKey, bytes | None]) -> dict[RowKey, bytes | None]:
        """Request the metadata missing in `rows`, which holds all rows. Returns the METADATA rows to add."""
        lost: list[RouteRow] = []
        for (kind, model), value in rows.items():
            if kind == Kind.MODEL and value is not None:
                route = _decode_route(value)
                for each in (route, *route.others):
                    if rows.get((Kind.METADATA, f"{each.namespace}/{model}")) is None:
                        self._wanted.pop((each.namespace, model), None)
                        lost.append(each)
        return self._request(lost, lambda _: None)

    def settle(self, reads: Iterable[MetadataRead], look_up: LookUpRow) -> dict[RowKey, bytes | None]:
        """Return the METADATA rows to publish for one batch of reads. Drops reads for an older ticket."""
        self._room.release()
        rows: dict[RowKey, bytes | None] = {}
        for read in reads:
            wanted = self._wanted.get((read.namespace, read.model))
            if wanted is None or wanted.ticket != read.ticket:
                continue
            version = None if read.value is None else wanted.version
            row = MetadataRow(wanted.app, version, wanted.version, read.state, read.since, read.value, read.reason)
            key = (Kind.METADATA, f"{read.namespace}/{read.model}")
            published = look_up(key)
            merged = merge_with_published(row, published)
            if refused := self._values.refused((read.namespace, read.model), len(merged)):
                row = msgspec.structs.replace(
                    row, version=None, state=MetadataState.TOO_LARGE, value=None, reason=refused
                )
                merged = merge_with_published(row, published)
            rows[key] = merged
        return rows

    def retry_failed(self) -> None:
        """Read all pending values again now, and the values set aside for which there is room now."""
        self._loader.retry_failed()
        requests = []
        for name in self._values.fitting():
            wanted = self._wanted[name]
            self._ticket += 1
            self._wanted[name] = wanted._replace(ticket=self._ticket)
            requests.append(ModelRequest(*name, wanted.app, wanted.version, self._ticket))
        self._loader.request(requests)

    @property
    def crowded(self) -> list[Crowded]:
        """The namespaces with values set aside for lack of room."""
        return self._values.crowded

    def status(self) -> MetadataStatus:
        """Return the counters for the status page."""
        counters = self._loader.counters
        return MetadataStatus(
            self._loader.store_name,
            counters.reads,
            counters.read_commands,
            self._skipped,
            counters.failures,
            counters.pending,
            self._loader.problem,
            self._loader.key_template,
        )

    def _no_longer_serving(self, model: str, namespaces: tuple[str, ...]) -> list[_Name]:
        """Note the namespaces that serve the model; return those that no longer do."""
        before = self._namespaces.pop(model, ())
        if namespaces:
            self._namespaces[model] = namespaces
        return [(namespace, model) for namespace in before if namespace not in namespaces]

    def _request(self, routes: Iterable[RouteRow], look_up: LookUpRow) -> dict[RowKey, bytes | None]:
        """Request the metadata of `routes` unless that has been done; return the PENDING rows to publish."""
        rows: dict[RowKey, bytes | None] = {}
        requests: list[ModelRequest] = []
        since = time.time()
        for route in routes:
            name = route.namespace, route.model
            wanted = self._wanted.get(name)
            if wanted is not None and (wanted.app, wanted.version) == (route.app, route.version):
                self._skipped += 1
                continue
            self._ticket += 1
            self._wanted[name] = _Wanted(route.app, route.version, self._ticket)
            requests.append(ModelRequest(*name, route.app, route.version, self._ticket))
            row = MetadataRow(route.app, None, route.version, MetadataState.PENDING, since, None, NOT_READ)
            key = (Kind.METADATA, "/".join(name))
            rows[key] = merged = merge_with_published(row, look_up(key))
            self._values.taken(name, len(merged))
        self._loader.request(requests)
        return rows
