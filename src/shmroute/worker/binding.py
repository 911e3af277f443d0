"""Lets the routes of a reader look up their endpoints and metadata later, and check whether these are stale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from shmroute.kinds import Kind
from shmroute.worker import environment
from shmroute.worker.position import Position
from shmroute.worker.routes import Route

if TYPE_CHECKING:
    from shmroute.worker.endpoints import Busy, Pool
    from shmroute.worker.metadata import MetadataValue


class ReaderBinding:
    """The link from routes to their reader's position. Each reader makes one; the class of its routes holds it.

    The class and not each route, since setting a field of every route would add 5 % to its first touch. The binding
    holds the reader's position and not the reader: the garbage collector does not track routes, and would never find a
    cycle through them. So a route that outlives its reader keeps using the same position.
    """

    def __init__(self, position: Position, zone: str | None) -> None:
        self.position = position
        self._zone = zone
        self.busy: Busy = {}
        position.in_child = self.busy.clear

    def route_type(self) -> type[Route]:
        """Return a subclass of `Route` that holds this binding."""
        bound: Any = msgspec.defstruct(
            "Route",
            [("others", "tuple[BoundRoute, ...]", ())],
            bases=(Route,),
            module=Route.__module__,
            namespace={"_source": self},
            frozen=True,
            array_like=True,
            gc=False,  # a route is never part of a reference cycle
        )
        bound.BoundRoute = bound  # msgspec resolves the field's type by this name; "Route" would be the module's class
        made: type[Route] = bound
        return made

    # --- methods of `shmroute.worker.routes.RouteSource` ----------------------------------------------------

    def is_current(self, part: Pool | MetadataValue) -> bool:
        """Return whether a decoded row is unchanged in the newest generation."""
        if self.position.word[()] != self.position.seen:
            self.position.newest()
        return not part.stale

    def pool_of(self, route: Route) -> Pool:
        """Return the endpoints of the route's app in the newest generation."""
        from shmroute.worker.endpoints import Pool, decode_row  # most workers never pick

        zone = self._zone if self._zone is not None else environment.zone()

        def decode(value: bytes | None) -> Pool:
            return Pool(route.app, decode_row(value) if value else None, zone, self.busy, self.position)

        return self.position.part(Kind.ENDPOINTS, f"{route.namespace}/{route.appmodel}", decode)

    def metadata_of(self, route: Route) -> MetadataValue:
        """Return the metadata of the route's model in the newest generation."""
        from shmroute.worker.metadata import MetadataValue, decode_row  # many workers never read it

        key = f"{route.namespace}/{route.model}"

        def decode(value: bytes | None) -> MetadataValue:
            row = decode_row(value) if value else None
            return MetadataValue(route.model, row, lambda: self._metadata_bytes(key, metadata))

        metadata = self.position.part(Kind.METADATA, key, decode)
        return metadata

    def _metadata_bytes(self, key: str, metadata: MetadataValue) -> bytes | None:
        """Return the value in a METADATA row. It is not cached, since each worker would hold a copy of its own."""
        from shmroute.worker.metadata import bytes_in

        position = self.position
        with position.lock:
            rows = position.refresh()
            if not metadata.stale:
                return bytes_in(rows, key)
        return metadata.raw  # the row has just changed, and `metadata` has got a copy of its former bytes
