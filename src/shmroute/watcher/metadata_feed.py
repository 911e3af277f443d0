"""Connects the rows with the metadata loader: requests the wanted version of each value, and makes METADATA rows.

Models and rows of declared tables are handled alike. A row whose key and version have not changed costs no read. Each
request has a ticket; a value read for an older ticket is dropped, so that an old value is never published under a new
version.

For models the feed reads MODEL rows rather than AppModels, so that of several claims only the winning one costs a read.
A declared table reports the metadata that its rows want.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from shmroute.metadata.loader import MetadataLoader, MetadataReads
from shmroute.metadata.published import merge_with_published
from shmroute.metadata.scheduler import NOT_READ, MetadataRead, MetadataRequest
from shmroute.metadata.template import KeyTemplate
from shmroute.rows import Kind, MetadataRow, MetadataState, RouteRow, RowKey
from shmroute.tables import Crowded, Room, WantedMetadata
from shmroute.watcher.metadata_room import MetadataRoom
from shmroute.watcher.status import MetadataStatus

WAITING_BATCHES: Final = 4
"""Largest number of batches of values that wait for the owner. With batches of 8 MiB they take at most 32 MiB."""

_STOP_CHECK_SECONDS: Final = 0.1

_decode_route = msgspec.msgpack.Decoder(RouteRow).decode

LookUpRow = Callable[[RowKey], "bytes | None"]
"""Returns the newest value of a row, published or waiting to be; None if there is none."""

TableMetadata = Iterable[tuple[RowKey, WantedMetadata | None]]
"""Pairs of the METADATA row of a declared table's row, and the metadata that it wants; None: no longer any."""


class _Wanted(NamedTuple):
    namespace: str
    owner: str
    """Owner of the value: a model's app, or for a table's row the key in the store. Never published for another one."""
    key: str
    """Key in the store."""
    version: str
    ticket: int = 0


class MetadataFeed:
    """Turns changed rows into requests, and the values that `loader` reads into rows. Owner thread, except `run`.

    Args:
        loader: reads the values.
        template: makes the keys of models.
        room: bytes that the values of one namespace, and of all, may take. A value without room is set aside and read
            again with the next resync at which it fits; earlier values stay.
    """

    def __init__(self, loader: MetadataLoader, template: KeyTemplate | None = None, room: Room | None = None) -> None:
        self._loader = loader
        self._values = MetadataRoom(room or Room())
        self._template = template or KeyTemplate()
        self._wanted: dict[RowKey, _Wanted] = {}
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

    def follow(
        self, changes: Mapping[RowKey, bytes | None], look_up: LookUpRow, tables: TableMetadata = ()
    ) -> dict[RowKey, bytes | None]:
        """Request the values that changed MODEL rows, and rows of declared tables, need.

        Returns the METADATA rows to publish together with them.
        """
        wanted: dict[RowKey, _Wanted | None] = {}
        for (kind, model), value in changes.items():
            if kind == Kind.MODEL:
                route = _decode_route(value) if value is not None else None
                wanted.update(self._of_model(model, (route, *route.others) if route else ()))
        wanted.update((row, _of_table(each)) for row, each in tables)
        gone = [row for row, each in wanted.items() if each is None and row in self._wanted]
        self._forget(gone)
        rows: dict[RowKey, bytes | None] = dict.fromkeys(gone)
        rows.update(self._request(wanted, look_up))
        return rows

    def want_lost(self, rows: Mapping[RowKey, bytes | None], tables: TableMetadata) -> dict[RowKey, bytes | None]:
        """Request the metadata missing in `rows`, which holds all rows. Returns the METADATA rows to add.

        `tables` holds the wanted metadata of all rows of declared tables.
        """
        wanted: dict[RowKey, _Wanted | None] = {}
        for (kind, model), value in rows.items():
            if kind == Kind.MODEL and value is not None:
                route = _decode_route(value)
                wanted.update(self._of_model(model, (route, *route.others)))
        wanted.update((row, _of_table(each)) for row, each in tables)
        lost = {row: each for row, each in wanted.items() if rows.get(row) is None}
        for row in lost:
            self._wanted.pop(row, None)
        return self._request(lost, lambda _: None)

    def drop(self, kinds: Iterable[int]) -> None:
        """Drop all requests for METADATA rows of these kinds, since their table is no longer declared."""
        numbers = frozenset(kinds)
        self._forget([row for row in self._wanted if row[0] in numbers])

    def settle(self, reads: Iterable[MetadataRead], look_up: LookUpRow) -> dict[RowKey, bytes | None]:
        """Return the METADATA rows to publish for one batch of reads. Drops reads for an older ticket."""
        self._room.release()
        rows: dict[RowKey, bytes | None] = {}
        for read in reads:
            wanted = self._wanted.get(read.row)
            if wanted is None or wanted.ticket != read.ticket:
                continue
            version = None if read.value is None else wanted.version
            row = MetadataRow(wanted.owner, version, wanted.version, read.state, read.since, read.value, read.reason)
            published = look_up(read.row)
            merged = merge_with_published(row, published)
            if refused := self._values.refused((wanted.namespace, read.row), len(merged)):
                row = msgspec.structs.replace(
                    row, version=None, state=MetadataState.TOO_LARGE, value=None, reason=refused
                )
                merged = merge_with_published(row, published)
            rows[read.row] = merged
        return rows

    def retry_failed(self) -> None:
        """Read all pending values again now, and the values set aside for which there is room now."""
        self._loader.retry_failed()
        self._loader.request([self._new_request(row, self._wanted[row]) for _, row in self._values.fitting()])

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
            self._template.template,
        )

    def _of_model(self, model: str, serving: Iterable[RouteRow]) -> Iterator[tuple[RowKey, _Wanted | None]]:
        """Yield the metadata that the model wants in each namespace; None for a namespace that no longer serves it."""
        before = self._namespaces.pop(model, ())
        routes = {route.namespace: route for route in serving}
        if routes:
            self._namespaces[model] = tuple(routes)
        for namespace in before:
            if namespace not in routes:
                yield (Kind.METADATA, f"{namespace}/{model}"), None
        for namespace, route in routes.items():
            key = self._template.key(namespace, route.app, model, route.version)
            yield (Kind.METADATA, f"{namespace}/{model}"), _Wanted(namespace, route.app, key, route.version)

    def _request(self, wanted: Mapping[RowKey, _Wanted | None], look_up: LookUpRow) -> dict[RowKey, bytes | None]:
        """Request the `wanted` metadata unless that has been done; return the PENDING rows to publish."""
        rows: dict[RowKey, bytes | None] = {}
        requests: list[MetadataRequest] = []
        since = time.time()
        for name, each in wanted.items():
            if each is None:
                continue
            before = self._wanted.get(name)
            if before is not None and before[:-1] == each[:-1]:
                self._skipped += 1
                continue
            if before is not None and before.namespace != each.namespace:
                self._values.forget((before.namespace, name))
            requests.append(self._new_request(name, each))
            row = MetadataRow(each.owner, None, each.version, MetadataState.PENDING, since, None, NOT_READ)
            rows[name] = merged = merge_with_published(row, look_up(name))
            self._values.taken((each.namespace, name), len(merged))
        self._loader.request(requests)
        return rows

    def _new_request(self, row: RowKey, wanted: _Wanted) -> MetadataRequest:
        self._ticket += 1
        self._wanted[row] = wanted._replace(ticket=self._ticket)
        return MetadataRequest(row, wanted.key, wanted.version, self._ticket)

    def _forget(self, rows: list[RowKey]) -> None:
        """Drop the requests for these rows, each of which must have one."""
        for row in rows:
            self._values.forget((self._wanted.pop(row).namespace, row))
        self._loader.forget(rows)


def _of_table(wanted: WantedMetadata | None) -> _Wanted | None:
    """Return the wanted metadata of a table's row. Its owner is the key in the store."""
    return _Wanted(wanted.namespace, wanted.key, wanted.key, wanted.version) if wanted is not None else None
