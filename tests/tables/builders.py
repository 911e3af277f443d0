"""Objects for the index's tests, written in one line, and the index as a worker would see it."""

from __future__ import annotations

from typing import Any

from shmroute.resources.appmodel import AppModel, InvalidAppModel, ModelVersion
from shmroute.resources.endpointslice import EndpointSlice, SliceEndpoint, SlicePort
from shmroute.resources.key import ObjectKey
from shmroute.rows import Kind, RowKey
from shmroute.sources.base import Changed, Deleted, Replaced
from shmroute.tables import Announcement, EndpointRules, Index
from tests.tables.oracle import Table, decoded

EARLY, LATE = "2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z"


def key_of(name: str) -> ObjectKey:
    """Return the key of `namespace/name`, or of a name in the namespace "default"."""
    namespace, _, name = name.rpartition("/")
    return ObjectKey(namespace or "default", name)


def appmodel(
    name: str,
    models: str = "model1",
    *,
    app: str = "",
    version: str = "v-1",
    created: str = EARLY,
    service: str = "",
    port: str = "",
    resource_version: str = "1",
) -> AppModel:
    """`models`: names, each with `=version` or in version "1"."""
    pairs = [model.partition("=") for model in models.split()]
    key = key_of(name)
    return AppModel(
        key=key,
        created=created,
        resource_version=resource_version,
        app=app or key.name,
        version=version,
        models=tuple(ModelVersion(model, wanted or "1") for model, _, wanted in pairs),
        service=key_of(service) if service else key,
        port=port,
    )


def invalid(name: str, reason: str = "spec is missing") -> InvalidAppModel:
    return InvalidAppModel(key_of(name), "2", reason)


def endpoint(
    address: str, *, ready: bool = True, serving: bool = True, terminating: bool = False, pod: str = ""
) -> SliceEndpoint:
    return SliceEndpoint(address, ready=ready, serving=serving, terminating=terminating, pod=pod)


def endpointslice(
    name: str, *endpoints: str | SliceEndpoint, service: str, ports: str = "http:80", version: int = 1
) -> EndpointSlice:
    """`ports`: `name:number` or `:number`, separated by spaces. `version` is the resourceVersion."""
    key = key_of(name)
    pairs = [port.split(":") for port in ports.split()]
    return EndpointSlice(
        key=key,
        resource_version=str(version),
        service=ObjectKey(key.namespace, service),
        address_type="IPv4",
        ports=tuple(SlicePort(port, int(number)) for port, number in pairs),
        endpoints=tuple(endpoint(each) if isinstance(each, str) else each for each in endpoints),
    )


class Followed:
    """An index, and a table to which its changes are applied in order."""

    def __init__(self, default_port: str = "") -> None:
        self.index = Index(EndpointRules(default_port))
        self.published: dict[RowKey, bytes] = {}

    def put(self, *items: AppModel | InvalidAppModel | EndpointSlice) -> list[Announcement]:
        """Apply them as single changes, without taking the rows."""
        return [owed for item in items for owed in self.index.apply(Changed(_resource(item), item))]

    def delete(self, item: AppModel | InvalidAppModel | EndpointSlice) -> list[Announcement]:
        return self.index.apply(Deleted(_resource(item), item.key))

    def replace(self, *items: AppModel | InvalidAppModel | EndpointSlice) -> list[Announcement]:
        """Apply these objects as the complete list of their resource."""
        return self.index.apply(Replaced(_resource(items[0]), items))

    def take(self) -> Table:
        """Return the rows that have changed, decoded; None for those that are gone."""
        changes = self.index.take_changes()
        gone = {key: None for key, value in changes.items() if value is None}
        changed = {key: value for key, value in changes.items() if value is not None}
        for key in gone:
            del self.published[key]
        self.published.update(changed)
        return {**decoded(changed.items()), **gone}

    def row(self, kind: Kind, key: str) -> Any:
        """Return a row as published; None if there is none. Takes the changes first."""
        self.take()
        return decoded(self.published.items()).get((kind, key))

    def served_by(self, model: str) -> str | None:
        """Return `namespace/appmodel` of the model's winner."""
        route = self.row(Kind.MODEL, model)
        return None if route is None else f"{route.namespace}/{route.appmodel}"

    def addresses(self, name: str) -> list[str] | None:
        """Return `host:port` of every endpoint of an AppModel's app."""
        row = self.row(Kind.ENDPOINTS, str(key_of(name)))
        return None if row is None else [f"{each.host}:{each.port}" for each in row.endpoints]


def _resource(item: AppModel | InvalidAppModel | EndpointSlice) -> Any:
    return "endpointslices" if isinstance(item, EndpointSlice) else "appmodels"
