"""Between the routes in force and the metadata loader: who is wanted in which version, and what has been read.

The loader follows MODEL rows rather than AppModels, so that of several claims only the one in force costs a read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

import msgspec

from shmroute.metadata.loader import MetadataLoader, MetadataRead
from shmroute.rows import Kind, RouteRow, RowKey
from shmroute.watcher.status import MetadataStatus

__all__ = ["MetadataFeed", "MetadataReads"]

_decode_route = msgspec.msgpack.Decoder(RouteRow).decode

Current = Callable[[RowKey], "bytes | None"]
"""The row as it is published, or about to be."""


class MetadataReads(msgspec.Struct, frozen=True):
    """What the loader has read, on its way to the owner."""

    reads: list[MetadataRead]


class MetadataFeed:
    """Feeds `loader` with the owner's changed rows and turns what it reads into rows. Owner thread, except `run`."""

    def __init__(self, loader: MetadataLoader) -> None:
        self._loader = loader
        self._namespaces: dict[str, tuple[str, ...]] = {}

    def run(self, put: Callable[[MetadataReads], None], stop: threading.Event) -> None:
        """Read what is wanted until `stop`; `put` takes the results, in another thread."""
        self._loader.run(lambda reads: put(MetadataReads(reads)), stop)

    def follow(self, changes: Mapping[RowKey, bytes | None], current: Current) -> dict[RowKey, bytes | None]:
        """Want what the changed MODEL rows ask for. Returns the METADATA rows to publish with them."""
        rows: dict[RowKey, bytes | None] = {}
        wanted: list[MetadataRead | None] = []
        with self._loader.changes():
            for (kind, model), value in changes.items():
                if kind != Kind.MODEL:
                    continue
                route = _decode_route(value) if value is not None else None
                routes = (route, *route.others) if route else ()
                for namespace in self._leave(model, tuple(each.namespace for each in routes)):
                    self._loader.gone(namespace, model)
                    rows[Kind.METADATA, f"{namespace}/{model}"] = None
                wanted += [self._loader.want(each.namespace, model, each.app, each.version) for each in routes]
        rows.update(self.settle((read for read in wanted if read is not None), current))
        return rows

    def want_lost(self, rows: Mapping[RowKey, bytes | None]) -> dict[RowKey, bytes | None]:
        """Want again what `rows`, the whole table, has no metadata of. Returns the METADATA rows to publish instead."""
        again: list[MetadataRead | None] = []
        with self._loader.changes():
            for (kind, model), value in rows.items():
                if kind != Kind.MODEL or value is None:
                    continue
                route = _decode_route(value)
                for each in (route, *route.others):
                    if rows.get((Kind.METADATA, f"{each.namespace}/{model}")) is None:
                        self._loader.gone(each.namespace, model)
                        again.append(self._loader.want(each.namespace, model, each.app, each.version))
        return self.settle((read for read in again if read is not None), lambda _: None)

    def _leave(self, model: str, namespaces: tuple[str, ...]) -> list[str]:
        """The namespaces that serve the model no more."""
        before = self._namespaces.pop(model, ())
        if namespaces:
            self._namespaces[model] = namespaces
        return [namespace for namespace in before if namespace not in namespaces]

    def settle(self, reads: Iterable[MetadataRead], current: Current) -> dict[RowKey, bytes | None]:
        """The METADATA rows to publish for what was read, unless something else is wanted by now."""
        rows: dict[RowKey, bytes | None] = {}
        for read in reads:
            key = (Kind.METADATA, f"{read.namespace}/{read.model}")
            row = self._loader.settled(read, current(key))
            if row is not None:
                rows[key] = row
        return rows

    def retry_failed(self) -> None:
        """Ask again for what is pending, now."""
        self._loader.retry_failed()

    def status(self) -> MetadataStatus:
        """Counters for the status page."""
        counters = self._loader.counters
        return MetadataStatus(
            self._loader.store_name,
            counters.reads,
            counters.read_commands,
            counters.skipped_by_version,
            counters.failures,
            counters.pending,
            self._loader.problem,
        )
