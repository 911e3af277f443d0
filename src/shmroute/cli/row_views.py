"""Turns each kind of row into items for `shmroute get`, and says which columns a list of them has."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec.structs import asdict

from shmroute.cli.resolve import ROUTE_COLUMNS, route_item
from shmroute.resources.registry import APPMODELS, ENDPOINTSLICES
from shmroute.rows import (
    BUILT_IN_TABLES,
    App,
    ConflictRow,
    EndpointsRow,
    EndpointsState,
    InvalidRow,
    Kind,
    MetadataRow,
    MetadataState,
    TableRow,
)
from shmroute.shm.reader import RowReader
from shmroute.watcher.report import age_words
from shmroute.worker.endpoints import Endpoint
from shmroute.worker.reader import Reader
from shmroute.worker.routes import Route
from shmroute.worker.table_view import endpoints_ready

Item = dict[str, Any]
T = TypeVar("T")


class View(NamedTuple):
    """A way to list one kind of row: the function that makes items of its bytes, and the columns."""

    kind: int
    items: Callable[[str, bytes], list[Item]]
    name: str
    """The field that `-o name` prints, and that NAMEs on the command line mean."""
    table: str
    """The columns, as in `shmroute.cli.output.show`."""
    wide: str = ""
    """Those that `-o wide` adds."""


def _decoder(kind: type[T]) -> Callable[[bytes], T]:
    decode: Callable[[bytes], T] = msgspec.msgpack.Decoder(kind).decode
    return decode


_route = _decoder(Route)
_apps = _decoder(tuple[App, ...])
_endpoints = _decoder(EndpointsRow)
_metadata = _decoder(MetadataRow)
_conflict = _decoder(ConflictRow)
_invalid = _decoder(InvalidRow)
decode_table = _decoder(TableRow)


def model_items(winner: Route) -> list[Item]:
    """Return one item for each route of a model, the winner first."""
    return [route_item(route) for route in (winner, *winner.others)]


def _app_items(_key: str, value: bytes) -> list[Item]:
    return [
        {
            "app": app.app,
            "version": app.version,
            "namespace": app.namespace,
            "appmodel": app.appmodel,
            "service": app.service,
            "model_count": len(app.models),
            "models": [{"name": name, "version": version} for name, version in app.models],
            "model_names": [name for name, _ in app.models],
        }
        for app in _apps(value)
    ]


def _endpoint_items(key: str, value: bytes) -> list[Item]:
    row = _endpoints(value)
    namespace, _, appmodel = key.partition("/")
    return [
        {
            "appmodel": appmodel,
            "namespace": namespace,
            "service": row.service,
            "state": "known" if row.endpoints else EndpointsState(row.state).word,
            "detail": row.detail,
            "ready": sum(endpoint.ready for endpoint in row.endpoints),
            "total": len(row.endpoints),
            "addresses": [str(Endpoint(endpoint.host, endpoint.port)) for endpoint in row.endpoints if endpoint.ready],
            "endpoints": [{**asdict(endpoint), "hints": list(endpoint.hints)} for endpoint in row.endpoints],
        }
    ]


def _metadata_items(key: str, value: bytes) -> list[Item]:
    row = _metadata(value)
    namespace, _, model = key.partition("/")
    return [
        {
            "model": model,
            "namespace": namespace,
            "app": row.app,
            "version": row.version or "",
            "wanted": row.wanted,
            "state": MetadataState(row.state).word,
            "since": row.since,
            "since_age": age_words(max(0.0, time.time() - row.since)),
            "bytes": len(row.value) if row.value is not None else 0,
            "reason": row.reason,
        }
    ]


def _conflict_items(_key: str, value: bytes) -> list[Item]:
    row = _conflict(value)
    return [
        {
            "model": row.model,
            "namespace": row.namespace,
            "winner": row.winner,
            "losers": list(row.losers),
            "table": row.table or "models",
        }
    ]


_BUILT_IN: Final = {
    "models": (APPMODELS, frozenset({APPMODELS.kind})),
    "apps": (APPMODELS, frozenset({APPMODELS.kind, "App"})),
    "endpoints": (ENDPOINTSLICES, frozenset({ENDPOINTSLICES.kind, "Endpoints", "Port"})),
}
"""Built-in table -> what its rows are made from, and the kinds of INVALID rows that belong to it."""


def built_in_tables(rows: RowReader) -> list[tuple[str, bytes]]:
    """Return name and row of each built-in table, as the TABLES rows of the declared ones."""
    invalid = [_invalid(value).kind for _, _, value in rows.rows(Kind.INVALID)]
    conflicts = sum(not _conflict(value).table for _, _, value in rows.rows(Kind.CONFLICT))
    found = []
    for name, (source, kinds) in _BUILT_IN.items():
        row = TableRow(
            number=int(BUILT_IN_TABLES[name]),
            resource=f"{source.plural}.{source.version}.{source.group}",
            ready=name != "endpoints" or endpoints_ready(rows),
            rows=sum(1 for _ in rows.keys(BUILT_IN_TABLES[name])),
            conflicts=conflicts if name == "models" else 0,
            invalid=sum(kind in kinds for kind in invalid),
        )
        found.append((name, msgspec.msgpack.encode(row)))
    return found


def _table_items(key: str, value: bytes) -> list[Item]:
    row = decode_table(value)
    return [
        {
            "table": key,
            "resource": row.resource,
            "ready": "yes" if row.ready else "no",
            "rows": row.rows,
            "indexes": list(row.indexes),
            "conflicts": row.conflicts,
            "invalid": row.invalid,
        }
    ]


def add_ages(items: list[Item], reader: Reader) -> None:
    """Give each item of `tables` the seconds since it was last in step with its source; None means never."""
    for item in items:
        age = reader.table(item["table"]).age
        item["age"] = age if math.isfinite(age) else None
        item["age_words"] = age_words(age) if math.isfinite(age) else "never"


def _row_items(key: str, value: bytes) -> list[Item]:
    content = msgspec.msgpack.decode(value)
    return [{"key": key, "bytes": len(value), "value": content}]


def _invalid_items(_key: str, value: bytes) -> list[Item]:
    row = _invalid(value)
    return [{**asdict(row), "serving": "last valid state" if row.last_good else "nothing"}]


VIEWS: Final = {
    "models": View(Kind.MODEL, lambda _key, value: model_items(_route(value)), "model", ROUTE_COLUMNS, "appmodel"),
    "apps": View(
        Kind.APP, _app_items, "app", "app version models=model_count namespace", "appmodel service names=model_names"
    ),
    "endpoints": View(
        Kind.ENDPOINTS, _endpoint_items, "appmodel", "appmodel namespace state ready total", "service addresses detail"
    ),
    "metadata": View(
        Kind.METADATA,
        _metadata_items,
        "model",
        "model namespace version wanted state since=since_age bytes",
        "app reason",
    ),
    "conflicts": View(Kind.CONFLICT, _conflict_items, "model", "model namespace winner losers", "table"),
    "invalid": View(Kind.INVALID, _invalid_items, "name", "kind namespace name serving reason"),
    "tables": View(
        Kind.TABLES, _table_items, "table", "table resource ready rows invalid age=age_words", "conflicts indexes"
    ),
}


def table_view(table: TableRow) -> View:
    """Return the view of a declared table's rows."""
    return View(table.number, _row_items, "key", "key value", "bytes")
