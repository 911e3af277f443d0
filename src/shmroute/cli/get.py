"""`shmroute get`: list the rows of the area, as `kubectl get` would."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

import click
import msgspec

from shmroute.cli import options, output
from shmroute.cli.output import age_text
from shmroute.errors import ShmrouteError
from shmroute.rows import (
    ConflictRow,
    EndpointsRow,
    EndpointsState,
    InvalidRow,
    Kind,
    MetadataRow,
    MetadataState,
)
from shmroute.shm.reader import RowReader
from shmroute.worker.endpoints import Endpoint
from shmroute.worker.routes import App, Route

Item = dict[str, Any]
T = TypeVar("T")


class _View(NamedTuple):
    """How one kind of row is listed: how its bytes become items, and the columns."""

    kind: Kind
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
            "since_age": age_text(max(0.0, time.time() - row.since)),
            "bytes": len(row.value) if row.value is not None else 0,
            "reason": row.reason,
        }
    ]


def _conflict_items(_key: str, value: bytes) -> list[Item]:
    row = _conflict(value)
    return [{"model": row.model, "namespace": row.namespace, "winner": row.winner, "losers": list(row.losers)}]


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
        {},
        "model",
    ),
    "invalid": _View(
        Kind.INVALID,
        _invalid_items,
        {"kind": "kind", "namespace": "namespace", "name": "name", "serving": "serving", "reason": "reason"},
        {},
        "name",
    ),
}


@click.command()
@click.argument("what", type=click.Choice((*_VIEWS, "workers")))
@click.argument("names", nargs=-1, metavar="[NAME...]")
@options.namespaces
@options.area
@click.option("-w", "--watch", is_flag=True, help="Models only: then print each change, until Ctrl-C.")
@click.option("--pending", is_flag=True, help="Metadata only: those whose value of the current version is not loaded.")
@options.output("table", "wide", "json", "yaml", "name")
def command(
    what: str,
    names: tuple[str, ...],
    namespace: str | None,
    all_namespaces: bool,
    area: str,
    watch: bool,
    pending: bool,
    output: str,
) -> None:
    """List the rows of the area.

    With NAMEs only those; ends with 5 if one does not exist. Lists all watched namespaces unless -n is given.
    """
    wanted_namespace = options.one_namespace(namespace, all_namespaces)
    if watch:
        if what != "models":
            raise click.UsageError("-w is for models")
        from shmroute.cli.follow import follow

        follow(
            area, lambda item: _is_wanted(item, wanted_namespace, names), _model_items_of, _VIEWS[what].table, output
        )
        return
    if what == "workers":
        _show_workers(area, output)
        return
    view = _VIEWS[what]
    items = [item for _, key, value in RowReader(area).rows(view.kind) for item in view.items(key, value)]
    items = [
        item
        for item in items
        if _is_wanted(item, wanted_namespace, names, view.name) and not (pending and item.get("state") == "loaded")
    ]
    items.sort(key=lambda item: (item["namespace"], item[view.name]))
    _show(items, output, view)
    missing = set(names) - {item[view.name] for item in items}
    for name in sorted(missing):
        click.echo(f"error: {what} {name!r} not found", err=True)
    if missing:
        raise SystemExit(5)
    if not items and output in ("table", "wide"):
        click.echo(f"No {what} found.", err=True)


def _show_workers(area: str, form: str) -> None:
    from shmroute.watcher.report import status_of
    from shmroute.watcher.workers import workers

    status_of(area)  # raises where there is no area
    found = workers(area)
    if not found["known"]:
        raise ShmrouteError(f"the workers of area {area!r} are not known: {found['reason']}")
    items = [{**item, "noted_age": age_text(item["noted_seconds"])} for item in found["items"]]
    table = {"pid": "pid", "state": "state", "generation": "generation", "last-move": "noted_age", "reason": "reason"}
    output.show(items, form, table, {"stuck-at": "stuck_at"}, "pid")
    if not items and form in ("table", "wide"):
        click.echo("No workers found.", err=True)


def _is_wanted(item: Item, namespace: str | None, names: tuple[str, ...], name: str = "model") -> bool:
    return (namespace is None or item["namespace"] == namespace) and (not names or item[name] in names)


def _show(items: list[Item], form: str, view: _View) -> None:
    output.show(items, form, view.table, view.wide, view.name)
