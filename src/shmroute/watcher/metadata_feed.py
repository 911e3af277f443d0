"""Between the routes in force and the metadata loader: who is wanted in which version, and what has been read.

The loader follows MODEL rows rather than AppModels, so that of several claims only the one in force costs a read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import msgspec

from shmroute.metadata.loader import MetadataLoader, MetadataRead
from shmroute.routes import Route
from shmroute.rows import Kind, MetadataRow, RowKey, encode
from shmroute.watcher.status import MetadataStatus

__all__ = ["MetadataFeed", "MetadataRows"]

_decode_route = msgspec.msgpack.Decoder(Route).decode


class MetadataRows(msgspec.Struct, frozen=True):
    """METADATA rows to publish; None for one that is gone."""

    rows: Mapping[RowKey, bytes | None]


class MetadataFeed:
    """Feeds `loader` with the owner's changed rows and turns what it reads into rows. Owner thread, except `run`."""

    def __init__(self, loader: MetadataLoader) -> None:
        self._loader = loader
        self._namespaces: dict[str, tuple[str, ...]] = {}

    def run(self, put: Callable[[MetadataRows], None], stop: threading.Event) -> None:
        """Read what is wanted until `stop`; `put` takes the results from this thread."""
        self._loader.run(lambda reads: put(MetadataRows(_rows(reads))), stop)

    def follow(self, changes: Mapping[RowKey, bytes | None]) -> dict[RowKey, bytes | None]:
        """Want what the changed MODEL rows ask for. Returns METADATA rows of routes that are gone."""
        gone: dict[RowKey, bytes | None] = {}
        for (kind, model), value in changes.items():
            if kind != Kind.MODEL:
                continue
            route = _decode_route(value) if value is not None else None
            routes = (route, *route.others) if route else ()
            namespaces = tuple(each.namespace for each in routes)
            for namespace in self._namespaces.get(model, ()):
                if namespace not in namespaces:
                    self._loader.gone(namespace, model)
                    gone[Kind.METADATA, f"{namespace}/{model}"] = None
            if routes:
                self._namespaces[model] = namespaces
            else:
                self._namespaces.pop(model, None)
            for each in routes:
                self._loader.want(each.namespace, each.model, each.app, each.version)
        return gone

    def adopt(self, rows: Mapping[str, MetadataRow]) -> None:
        """Take over what a former watcher has published, by row key: what fits need not be read again."""
        self._loader.adopt(rows)

    def retry_failed(self) -> None:
        """Ask again for what is pending, now."""
        self._loader.retry_failed()

    def status(self) -> MetadataStatus:
        """Counters for the status page."""
        return self._loader.status()


def _rows(reads: list[MetadataRead]) -> dict[RowKey, bytes | None]:
    return {(Kind.METADATA, f"{read.namespace}/{read.model}"): encode(read.row) for read in reads}
