"""Rows of an area of a test's own, written briefly and published as a watcher would.

with RoutesArea(area) as given:
    given.route("model", app="iiot")
    given.endpoints("iiot", "10.0.0.1:8060")
"""

from __future__ import annotations

import time
from typing import Any, Self

import msgspec

from shmroute.rows import App, EndpointRow, EndpointsRow, EndpointsState, Kind, MetadataRow, MetadataState, encode
from shmroute.shm.writing.publisher import Publisher
from shmroute.worker.routes import Route

NAMESPACE = "ns"


def route(model: str, app: str = "app", version: str = "v1", **others: Any) -> Route:
    """Return a route whose AppModel has the app's name."""
    fields = {"app_version": "v1", "namespace": NAMESPACE, "appmodel": app} | others
    return Route(model=model, version=version, app=app, **fields)


def endpoint(address: str, **changes: Any) -> EndpointRow:
    """Return a ready endpoint at `host:port`."""
    host, _, port = address.rpartition(":")
    fields: dict[str, Any] = {"ready": True, "serving": True, "terminating": False} | changes
    return EndpointRow(host.strip("[]"), int(port), **fields)


class RoutesArea:
    """A publisher of routes; each method publishes one generation."""

    def __init__(self, area: str) -> None:
        self.publisher = Publisher(area)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.publisher.close()

    def publish(self, *routes: Route) -> int:
        """Add or replace routes."""
        return self.publisher.publish({(Kind.MODEL, each.model): encode(each) for each in routes})

    def route(self, model: str, app: str = "app", version: str = "v1", **others: Any) -> int:
        return self.publish(route(model, app, version, **others))

    def remove(self, *models: str) -> int:
        return self.publisher.publish({(Kind.MODEL, model): None for model in models})

    def apps(self, *apps: App) -> int:
        """Publish the AppModels of one app, the oldest first."""
        return self.publisher.publish({(Kind.APP, apps[0].app): encode(apps)})

    def endpoints(
        self,
        app: str,
        *addresses: str | EndpointRow,
        state: EndpointsState = EndpointsState.KNOWN,
        detail: str = "",
    ) -> int:
        rows = tuple(each if isinstance(each, EndpointRow) else endpoint(each) for each in addresses)
        row = EndpointsRow(f"{NAMESPACE}/{app}", state, rows, detail)
        return self.publisher.publish({(Kind.ENDPOINTS, f"{NAMESPACE}/{app}"): encode(row)})

    def metadata(self, model: str, value: Any, version: str = "v1", app: str = "app") -> int:
        row = MetadataRow(app, version, version, MetadataState.LOADED, 1.0, msgspec.json.encode(value))
        return self.publisher.publish({(Kind.METADATA, f"{NAMESPACE}/{model}"): encode(row)})

    def in_step(self, seconds_ago: float = 0.0, *, synced: bool = True) -> None:
        """Set the time at which the rows were last in step with their source."""
        now = time.monotonic_ns()
        self.publisher.control.beat(now, max(1, now - int(seconds_ago * 1e9)), synced=synced)
