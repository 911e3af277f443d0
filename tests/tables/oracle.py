"""The expected rows, computed in the simplest way: each rule anew, over all objects, for each question.

Shares no code with the index but the values that go in and the structs that come out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any, TypeAlias

import msgspec

from shmroute.resources.appmodel import AppModel, InvalidAppModel
from shmroute.resources.endpointslice import EndpointSlice
from shmroute.resources.key import ObjectKey
from shmroute.resources.registry import Item
from shmroute.rows import App, ConflictRow, EndpointRow, EndpointsRow, EndpointsState, InvalidRow, Kind, RowKey
from shmroute.sources.base import Changed, Deleted, Event, Replaced
from shmroute.worker.routes import Route

Table: TypeAlias = dict[tuple[int, str], Any]
"""Rows with their values decoded."""

_TYPES: dict[int, Any] = {
    Kind.MODEL: Route,
    Kind.APP: tuple[App, ...],
    Kind.ENDPOINTS: EndpointsRow,
    Kind.CONFLICT: ConflictRow,
    Kind.INVALID: InvalidRow,
}


def decoded(rows: Iterable[tuple[RowKey, bytes]]) -> Table:
    """Return the rows as the index gives them out, decoded as a worker does; no key may come twice."""
    table: Table = {}
    for key, value in rows:
        assert key not in table
        table[key] = msgspec.msgpack.decode(value, type=_TYPES[key[0]])
    return table


class Oracle:
    """Keeps the objects in the order of arrival, and no computed state."""

    def __init__(self, default_port: str = "") -> None:
        self.default_port = default_port
        self.valid: dict[ObjectKey, AppModel] = {}
        self.invalid: dict[ObjectKey, InvalidAppModel] = {}
        self.slices: dict[ObjectKey, EndpointSlice] = {}
        self.emptied: set[ObjectKey] = set()

    def apply(self, event: Event) -> None:
        services = {item.service for item in self.slices.values()}
        match event:
            case Replaced("appmodels", items):
                kept = {item.key for item in items}
                self.valid = {key: item for key, item in self.valid.items() if key in kept}
                self.invalid = {key: item for key, item in self.invalid.items() if key in kept}
                for item in items:
                    self._put(item)
            case Replaced("endpointslices", items):
                self.slices = {}
                for item in items:
                    self._put(item)
            case Changed(_, item):
                self._put(item)
            case Deleted("appmodels", key):
                self.valid.pop(key, None)
                self.invalid.pop(key, None)
            case Deleted("endpointslices", key):
                self.slices.pop(key, None)
        left = {item.service for item in self.slices.values()}
        named = {item.service for item in self.valid.values()}
        self.emptied = ((self.emptied | services) - left) & named
        if isinstance(event, Replaced) and event.resource == "endpointslices":
            self.emptied = set()

    def _put(self, item: Item) -> None:
        match item:
            case AppModel():
                self.valid[item.key] = item
                self.invalid.pop(item.key, None)
            case InvalidAppModel():
                self.invalid[item.key] = item
            case EndpointSlice():
                self.slices[item.key] = item

    # --- the rules -----------------------------------------------------------------------------------------

    def table(self) -> Table:
        table: Table = {}
        in_order = sorted(self.valid.values(), key=lambda item: (item.created, item.key.namespace, item.key.name))
        for model in {model.name for item in in_order for model in item.models}:
            claims = [item for item in in_order if any(each.name == model for each in item.models)]
            namespaces = list(dict.fromkeys(item.key.namespace for item in claims))
            routes = []
            for namespace in namespaces:
                first, *losers = [item for item in claims if item.key.namespace == namespace]
                routes.append(_route(first, model))
                if losers:
                    table[Kind.CONFLICT, f"{namespace}/{model}"] = ConflictRow(
                        model, namespace, first.key.name, tuple(item.key.name for item in losers), len(losers)
                    )
            winner, *others = routes
            table[Kind.MODEL, model] = msgspec.structs.replace(winner, others=tuple(others))
        for app in {item.app for item in in_order}:
            table[Kind.APP, app] = tuple(_app(item) for item in in_order if item.app == app)
        for item in in_order:
            row, problem = self._endpoints(item)
            name = str(item.key)
            table[Kind.ENDPOINTS, name] = row
            if problem:
                table[Kind.INVALID, f"Port {name}"] = problem
        for key, broken in self.invalid.items():
            table[Kind.INVALID, f"AppModel {key}"] = InvalidRow(
                "AppModel", key.namespace, key.name, broken.reason, key in self.valid
            )
        return table

    def _endpoints(self, item: AppModel) -> tuple[EndpointsRow, InvalidRow | None]:
        service = str(item.service)
        slices = [each for each in self.slices.values() if each.service == item.service]
        if not slices and item.service not in self.emptied:
            return EndpointsRow(service, EndpointsState.UNKNOWN), None
        slices = [each for each in slices if each.endpoints]
        if not slices:
            return EndpointsRow(service, EndpointsState.KNOWN), None
        number = self._numbers(slices, item.port)
        if not number:
            ports = sorted({(port.name, port.port) for each in slices for port in each.ports})
            shown = ", ".join(f"{name} {port}".strip() for name, port in ports)
            if item.port:
                reason = f"port {item.port!r} is not a TCP port of Service {service}, which has {shown or 'no port'}"
            elif shown:
                reason = f"ambiguous port: Service {service} has {shown}: name one in the annotation iidp.com/port"
            else:
                reason = f"Service {service} declares no port: give a number in the annotation iidp.com/port"
            problem = InvalidRow("Port", item.key.namespace, item.key.name, reason, False)
            return EndpointsRow(service, EndpointsState.AMBIGUOUS_PORT, (), shown), problem
        return EndpointsRow(service, EndpointsState.KNOWN, _union(slices, number)), None

    def _numbers(self, slices: list[EndpointSlice], annotation: str) -> Mapping[ObjectKey, int]:
        """Return the slices that take part, and with which port."""
        if annotation:
            return _matching(slices, annotation)
        if self.default_port and (found := _matching(slices, self.default_port)):
            return found
        names = {p.name for e in slices for p in e.ports if p.name}
        single = len(names) <= 1 and max(len(e.ports) for e in slices) <= 1
        if single or len({p.port for e in slices for p in e.ports}) == 1:
            return {each.key: each.ports[0].port for each in slices if each.ports}
        return _matching(slices, "http")


def _matching(slices: list[EndpointSlice], wanted: str) -> dict[ObjectKey, int]:
    found: dict[ObjectKey, int] = {}
    for each in slices:
        if wanted.isdigit():
            if not any(other.ports for other in slices) or int(wanted) in {port.port for port in each.ports}:
                found[each.key] = int(wanted)
        else:
            found.update((each.key, port.port) for port in each.ports if port.name == wanted)
    return found


def _union(slices: list[EndpointSlice], numbers: Mapping[ObjectKey, int]) -> tuple[EndpointRow, ...]:
    rows = []
    for each in slices:
        if each.key not in numbers:
            continue
        for e in each.endpoints:
            row = EndpointRow(
                e.address, numbers[each.key], e.ready, e.serving, e.terminating, e.zone, e.node, e.pod, e.hints
            )
            written = int(each.resource_version or 0)
            rank = (e.ready, e.serving, not e.terminating, written, e.zone, e.node, e.pod, e.hints)
            rows.append(((row.host, row.port), rank, row))
    rows.sort(key=lambda row: row[:2])
    return tuple(list(doubles)[-1][2] for _, doubles in groupby(rows, key=lambda row: row[0]))


def _route(item: AppModel, name: str) -> Route:
    version = next(model.version for model in item.models if model.name == name)
    return Route(name, version, item.app, item.version, item.key.namespace, item.key.name)


def _app(item: AppModel) -> App:
    models = tuple((model.name, model.version) for model in item.models)
    key = item.key
    return App(item.app, item.version, key.namespace, key.name, str(item.service), models, item.created, item.port)
