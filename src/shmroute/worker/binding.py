"""What a reader's routes know of it: where to look up endpoints and metadata, and whether theirs are out of date."""

from __future__ import annotations

from typing import Any

import msgspec

from shmroute.rows import EndpointsRow, Kind
from shmroute.worker import environment
from shmroute.worker.endpoints import Busy, Pool
from shmroute.worker.metadata import MetadataValue, bytes_in, decode_row
from shmroute.worker.position import Position
from shmroute.worker.routes import Route

__all__ = ["ReaderBinding"]

_decode_endpoints = msgspec.msgpack.Decoder(EndpointsRow).decode


class ReaderBinding:
    """Made once for each reader, and held by the class of its routes.

    By the class, since setting a field of every route would add a twentieth to its first touch. It holds the reader's
    position and not the reader: the garbage collector does not see routes (they are not tracked), and would never find
    a cycle that goes through them. So a route that outlives its reader goes on with the same position.
    """

    def __init__(self, position: Position, zone: str | None) -> None:
        self.position = position
        self._zone = zone
        self.busy: Busy = {}
        position.in_child = self.busy.clear

    def route_type(self) -> type[Route]:
        """A class of routes that know this binding."""
        bound: Any = msgspec.defstruct(
            "Route",
            [("others", "tuple[BoundRoute, ...]", ())],
            bases=(Route,),
            module=Route.__module__,
            namespace={"_source": self},
            frozen=True,
            array_like=True,
            gc=False,  # nothing that a route holds leads back to it
        )
        bound.BoundRoute = bound  # what the field's type means; "Route" would be that of the module
        made: type[Route] = bound
        return made

    # --- what `shmroute.worker.routes.RouteSource` asks for -------------------------------------------------

    def is_current(self, part: Pool | MetadataValue) -> bool:
        """Whether what was decoded from a row is still right in the newest generation."""
        if self.position.word[()] != self.position.seen:
            self.position.newest()
        return not part.stale

    def pool_of(self, route: Route) -> Pool:
        """The endpoints of the route's app in the newest generation."""
        zone = self._zone if self._zone is not None else environment.zone()

        def decode(value: bytes | None) -> Pool:
            return Pool(route.app, _decode_endpoints(value) if value else None, zone, self.busy, self.position)

        return self.position.part(Kind.ENDPOINTS, f"{route.namespace}/{route.appmodel}", decode)

    def metadata_of(self, route: Route) -> MetadataValue:
        """The metadata of the route's model in the newest generation."""
        key = f"{route.namespace}/{route.model}"

        def decode(value: bytes | None) -> MetadataValue:
            row = decode_row(value) if value else None
            return MetadataValue(route.model, row, lambda: self._metadata_bytes(key, metadata))

        metadata = self.position.part(Kind.METADATA, key, decode)
        return metadata

    def _metadata_bytes(self, key: str, metadata: MetadataValue) -> bytes | None:
        """The value in a METADATA row. Not remembered: each worker would have a copy of its own."""
        position = self.position
        with position.lock:
            rows = position.refresh()
            if not metadata.stale:
                return bytes_in(rows, key)
        return metadata.raw  # the row has just changed, and `metadata` has been given the bytes of its own
