"""`shmroute get`: list the rows of the area, as `kubectl get` would."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

import click
import msgspec
from click.shell_completion import CompletionItem

from shmroute.cli import options, output
from shmroute.cli.follow import follow, follow_table, short
from shmroute.errors import ShmrouteError, TableNotReady
from shmroute.resources.registry import APPMODELS, ENDPOINTSLICES
from shmroute.resources.table_definition import TABLE_NAME
from shmroute.rows import (
    BUILT_IN_TABLES,
    ConflictRow,
    EndpointsRow,
    EndpointsState,
    InvalidRow,
    Kind,
    MetadataRow,
    MetadataState,
    TableRow,
    bucket_key,
    index_value,
)
from shmroute.shm.reader import RowReader
from shmroute.watcher.report import age_words, status_of
from shmroute.worker import environment
from shmroute.worker.endpoints import Endpoint
from shmroute.worker.routes import App, Route
from shmroute.worker.table_view import endpoints_ready

Item = dict[str, Any]
T = TypeVar("T")


class _View(NamedTuple):
    """How one kind of row is listed: how its bytes become items, and the columns."""

    kind: int
    items: Callable[[str, bytes], list[Item]]
    table: dict[str, str]
    wide: dict[str, str]
    name: str


def _decoder(kind: type[T]) -> Callable[[bytes], T]:
    decode: Callable[[bytes], T] = msgspec.msgpack.Decoder(kind).decode
    return decode


_route = _decoder(Route)
_apps = _decoder(tuple[App, ...])
_endpoints = _decoder(EndpointsRow)
_metadata = _decoder(MetadataRow)
_conflict = _decoder(ConflictRow)
_invalid = _decoder(InvalidRow)
_table = _decoder(TableRow)

_MAX_SHOWN: Final = 80
"""Longest value shown in a column, in characters; -o json and yaml show all of it."""


def _model_items(_key: str, value: bytes) -> list[Item]:
    return _model_items_of(_route(value))


def _model_items_of(winner: Route) -> list[Item]:
    return [
        {
            "model": route.model,
            "version": route.version,
            "app": route.app,
            "app_version": route.app_version,
            "namespace": route.namespace,
            "appmodel": route.appmodel,
        }
        for route in (winner, *winner.others)
    ]


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
            "endpoints": msgspec.to_builtins(
                [
                    {field: getattr(endpoint, field) for field in endpoint.__struct_fields__}
                    for endpoint in row.endpoints
                ]
            ),
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


def _built_in_tables(rows: RowReader) -> list[tuple[str, bytes]]:
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
    row = _table(value)
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


def _row_items(key: str, value: bytes) -> list[Item]:
    content = msgspec.msgpack.decode(value)
    return [{"key": key, "bytes": len(value), "value": content}]


def _invalid_items(_key: str, value: bytes) -> list[Item]:
    row = _invalid(value)
    return [
        {
            "kind": row.kind,
            "namespace": row.namespace,
            "name": row.name,
            "reason": row.reason,
            "last_good": row.last_good,
            "serving": "last valid state" if row.last_good else "nothing",
        }
    ]


_VIEWS: Final = {
    "models": _View(
        Kind.MODEL,
        _model_items,
        {"model": "model", "version": "version", "app": "app", "app-version": "app_version", "namespace": "namespace"},
        {"appmodel": "appmodel"},
        "model",
    ),
    "apps": _View(
        Kind.APP,
        _app_items,
        {"app": "app", "version": "version", "models": "model_count", "namespace": "namespace"},
        {"appmodel": "appmodel", "service": "service", "names": "model_names"},
        "app",
    ),
    "endpoints": _View(
        Kind.ENDPOINTS,
        _endpoint_items,
        {"appmodel": "appmodel", "namespace": "namespace", "state": "state", "ready": "ready", "total": "total"},
        {"service": "service", "addresses": "addresses", "detail": "detail"},
        "appmodel",
    ),
    "metadata": _View(
        Kind.METADATA,
        _metadata_items,
        {
            "model": "model",
            "namespace": "namespace",
            "version": "version",
            "wanted": "wanted",
            "state": "state",
            "since": "since_age",
            "bytes": "bytes",
        },
        {"app": "app", "reason": "reason"},
        "model",
    ),
    "conflicts": _View(
        Kind.CONFLICT,
        _conflict_items,
        {"model": "model", "namespace": "namespace", "winner": "winner", "losers": "losers"},
        {"table": "table"},
        "model",
    ),
    "invalid": _View(
        Kind.INVALID,
        _invalid_items,
        {"kind": "kind", "namespace": "namespace", "name": "name", "serving": "serving", "reason": "reason"},
        {},
        "name",
    ),
    "tables": _View(
        Kind.TABLES,
        _table_items,
        {"table": "table", "resource": "resource", "ready": "ready", "rows": "rows", "invalid": "invalid"},
        {"conflicts": "conflicts", "indexes": "indexes"},
        "table",
    ),
}


_NAMES: Final = f"{', '.join(_VIEWS)}, workers"
"""What can be listed, besides declared tables."""


class _What(click.ParamType[str]):
    """A view, or the name of a declared table of the area."""

    name = "what"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not TABLE_NAME.fullmatch(value):
            self.fail(f"{value!r} is not the name of a table, nor one of {_NAMES}", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        try:
            tables = [key for _, key, _ in RowReader(ctx.params.get("area") or environment.area()).rows(Kind.TABLES)]
        except ShmrouteError:
            tables = []
        return [CompletionItem(each) for each in (*_VIEWS, "workers", *tables) if each.startswith(incomplete)]


def _view_of(what: str, rows: RowReader, by: str | None) -> tuple[_View, frozenset[str] | None]:
    """The view of a name, and the keys to restrict it to; None for all. Raises `TableNotFound`, `UsageError`."""
    if what in _VIEWS:
        if by:
            raise click.UsageError("--by is for declared tables")
        return _VIEWS[what], None
    row = rows.get(Kind.TABLES, what)
    if row is None:
        raise click.UsageError(f"{what!r} is neither a table of this area nor one of {_NAMES}")
    table = _table(row)
    if not table.ready:
        raise TableNotReady(what, environment.area())
    view = _View(table.number, _row_items, {"key": "key", "value": "value"}, {"bytes": "bytes"}, "key")
    return view, frozenset(_keys_by(rows, table, *_index_of(what, table, by))) if by else None


def _index_of(name: str, table: TableRow, by: str) -> tuple[str, list[Any]]:
    """The index that `--by` names, and the values that it may mean: `1` is a number and a text."""
    index, equals, text = by.partition("=")
    if not equals:
        raise click.UsageError(f"--by {by!r}: write INDEX=VALUE")
    if index not in table.indexes:
        raise click.UsageError(f"table {name!r} has no index {index!r}; it has {', '.join(table.indexes) or 'none'}")
    values: list[Any] = [text]
    with suppress(msgspec.DecodeError):
        values.append(msgspec.json.decode(text))
    return index, [value for value in values if index_value(index, value) is not None]


def _keys_by(rows: RowReader, table: TableRow, index: str, values: list[Any]) -> list[str]:
    entries = {entry for value in values if (entry := index_value(index, value)) is not None}
    found: list[str] = []
    for entry in entries:
        first = rows.get(table.number + 1, bucket_key(entry, 0))
        if first is None:
            continue
        buckets, keys = msgspec.msgpack.decode(first)
        found += keys
        for bucket in range(1, buckets):
            found += msgspec.msgpack.decode(rows.get(table.number + 1, bucket_key(entry, bucket)) or b"\x90")
    return found


@click.command()
@click.argument("what", type=_What())
@click.argument("names", nargs=-1, metavar="[NAME...]")
@options.namespaces
@options.area
@click.option("-w", "--watch", is_flag=True, help="Models and declared tables: then print each change, until Ctrl-C.")
@click.option("--by", metavar="INDEX=VALUE", help="Declared tables only: the rows whose index has this value.")
@click.option("--pending", is_flag=True, help="Metadata only: those whose value of the current version is not loaded.")
@options.output("table", "wide", "json", "yaml", "name")
def command(
    what: str,
    names: tuple[str, ...],
    namespace: str | None,
    all_namespaces: bool,
    area: str,
    watch: bool,
    by: str | None,
    pending: bool,
    output: str,
) -> None:
    """List the rows of the area.

    WHAT is models, apps, endpoints, metadata, conflicts, invalid, tables, workers, or the name of a declared table.
    With NAMEs only those; ends with 5 if one does not exist. Lists all watched namespaces unless -n is given.
    """
    wanted_namespace = options.one_namespace(namespace, all_namespaces)
    if wanted_namespace is not None and (what == "tables" or (what not in _VIEWS and what != "workers")):
        raise click.UsageError("-n is not for tables: where several namespaces are watched, their keys begin with it")
    if watch:
        if what not in _VIEWS and what != "workers":
            rows = RowReader(area)
            _view_of(what, rows, by)  # which refuses what is no table
            index = _index_of(what, _table(rows.get(Kind.TABLES, what) or b""), by) if by else None
            follow_table(area, what, names, index, output)
            return
        if what != "models":
            raise click.UsageError("-w is for models and declared tables")
        follow(area, lambda item: _is_wanted(item, wanted_namespace, names), _model_items_of, output)
        return
    if what == "workers":
        _show_workers(area, output)
        return
    rows = RowReader(area)
    view, keys = _view_of(what, rows, by)
    found = [(key, value) for _, key, value in rows.rows(view.kind) if keys is None or key in keys]
    if what == "tables":
        found += _built_in_tables(rows)
    items = [item for key, value in found for item in view.items(key, value)]
    items = [
        item
        for item in items
        if _is_wanted(item, wanted_namespace, names, view.name) and not (pending and item.get("state") == "loaded")
    ]
    items.sort(key=lambda item: (item.get("namespace", ""), item[view.name]))
    cut = view.items is _row_items and output in ("table", "wide")
    _show([{**item, "value": short(item["value"], _MAX_SHOWN)} for item in items] if cut else items, output, view)
    missing = set(names) - {item[view.name] for item in items}
    for name in sorted(missing):
        click.echo(f"error: {what} {name!r} not found", err=True)
    if missing:
        raise SystemExit(5)
    if not items and output in ("table", "wide"):
        click.echo(_nothing(what, area), err=True)


def _nothing(what: str, area: str) -> str:
    if what == "invalid":
        return "No invalid objects."
    if what == "metadata":
        status = status_of(area)[1]
        if status is not None and status.metadata is None:
            return "This watcher reads no metadata (--redis, --metadata)."
    return f"No {what} found."


def _show_workers(area: str, form: str) -> None:
    from shmroute.watcher.workers import workers

    control, _ = status_of(area)  # raises where there is no area
    found = workers(area)
    if not found["known"]:
        raise ShmrouteError(f"the workers of area {area!r} are not known: {found['reason']}")
    items = [{**item, "noted_age": age_words(item["noted_seconds"])} for item in found["items"]]
    table = {"pid": "pid", "state": "state", "answers-from": "generation", "last-move": "noted_age"}
    table["reason"] = "reason"
    output.show(items, form, table, {"stuck-at": "stuck_at", "look-up": "look_up"}, "pid")
    if not items and form in ("table", "wide"):
        click.echo("No workers found.", err=True)
    elif form in ("table", "wide"):
        click.echo(f"newest generation {control.generation}; a worker moves to it at its next look-up", err=True)


def _is_wanted(item: Item, namespace: str | None, names: tuple[str, ...], name: str = "model") -> bool:
    return (namespace is None or item["namespace"] == namespace) and (not names or item[name] in names)


def _show(items: list[Item], form: str, view: _View) -> None:
    output.show(items, form, view.table, view.wide, view.name)
