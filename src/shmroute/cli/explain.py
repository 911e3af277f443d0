"""`shmroute explain`: why a look-up answers as it does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from shmroute.cli import options
from shmroute.cli.output import age_text, document
from shmroute.errors import ModelNotFound
from shmroute.rows import ConflictRow, EndpointsRow, EndpointsState, InvalidRow, Kind, MetadataRow, MetadataState
from shmroute.shm.reader import RowReader
from shmroute.worker.endpoints import Endpoint
from shmroute.worker.reader import Reader
from shmroute.worker.routes import App, Route


@click.command()
@click.argument("model")
@click.option("-n", "--namespace", envvar="SHMROUTE_NAMESPACE", help="The route in that namespace.")
@options.area
@options.output("table", "json", "yaml")
def command(model: str, namespace: str | None, area: str, output: str) -> None:
    """Say why MODEL is answered as it is.

    Which AppModel is in force and which ones wait, which versions, how the metadata stands, where the endpoints come
    from. Ends with 5 if the model is not served, and says what might be the reason.
    """
    rows = RowReader(area)
    route = _route(rows, model, namespace)
    if route is None:
        for line in _why_not(rows, model):
            click.echo(line, err=True)
        raise ModelNotFound(model, namespace)
    with Reader(area) as reader:
        age = reader.age
    facts = _facts(rows, route, age)
    click.echo("\n".join(_lines(facts)) if output == "table" else document(facts, output))


def _route(rows: RowReader, model: str, namespace: str | None) -> Route | None:
    value = rows.get(Kind.MODEL, model)
    if value is None:
        return None
    winner = msgspec.msgpack.decode(value, type=Route)
    found = (each for each in (winner, *winner.others) if namespace in (None, each.namespace))
    return next(found, None)


def _facts(rows: RowReader, route: Route, age: float) -> dict[str, Any]:
    key = f"{route.namespace}/{route.model}"
    conflict = _row(rows, Kind.CONFLICT, key, ConflictRow)
    metadata = _row(rows, Kind.METADATA, key, MetadataRow)
    endpoints = _row(rows, Kind.ENDPOINTS, f"{route.namespace}/{route.appmodel}", EndpointsRow)
    apps = _row(rows, Kind.APP, route.app, tuple[App, ...]) or ()
    return {
        "model": route.model,
        "version": route.version,
        "app": route.app,
        "app_version": route.app_version,
        "appmodel": f"{route.namespace}/{route.appmodel}",
        "waiting_appmodels": list(conflict.losers) if conflict else [],
        "other_namespaces": [f"{other.namespace}: {other.app} {other.version}" for other in route.others],
        "app_named_by": [f"{app.namespace}/{app.appmodel}" for app in apps],
        "metadata": _metadata_facts(metadata),
        "endpoints": _endpoint_facts(endpoints),
        "generation": rows.generation,
        "age": age if age != float("inf") else None,
    }


def _metadata_facts(row: MetadataRow | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {
        "state": MetadataState(row.state).name.lower().replace("_", "-"),
        "version": row.version,
        "wanted": row.wanted,
        "bytes": len(row.value) if row.value is not None else 0,
        "for_seconds": max(0.0, time.time() - row.since),
        "reason": row.reason,
    }


def _endpoint_facts(row: EndpointsRow | None) -> dict[str, Any]:
    if row is None:
        return {"service": None, "state": "not known", "ready": [], "not_ready": []}
    state = {
        EndpointsState.UNKNOWN: "not known",
        EndpointsState.KNOWN: "known" if row.endpoints else "known empty",
        EndpointsState.AMBIGUOUS_PORT: f"ambiguous port ({row.detail})",
    }[row.state]
    return {
        "service": row.service,
        "state": state,
        "ready": [str(Endpoint(each.host, each.port)) for each in row.endpoints if each.ready],
        "not_ready": [str(Endpoint(each.host, each.port)) for each in row.endpoints if not each.ready],
    }


def _row(rows: RowReader, kind: Kind, key: str, form: Any) -> Any:
    value = rows.get(kind, key)
    return msgspec.msgpack.decode(value, type=form) if value is not None else None


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    yield f"{facts['model']} {facts['version']} is served by app {facts['app']} {facts['app_version']}"
    yield f"  because AppModel {facts['appmodel']} claims it"
    if facts["waiting_appmodels"]:
        waiting = ", ".join(facts["waiting_appmodels"])
        yield f"  and is the oldest that does; these would take over in this order: {waiting}"
    if facts["other_namespaces"]:
        yield f"  other namespaces: {'; '.join(facts['other_namespaces'])}"
    if len(facts["app_named_by"]) > 1:
        yield f"  app {facts['app']} is named by several AppModels: {', '.join(facts['app_named_by'])}"
    metadata = facts["metadata"]
    if metadata is None:
        yield "metadata: the watcher reads none"
    else:
        reason = f" ({metadata['reason']})" if metadata["reason"] else ""
        value = f"{metadata['bytes']} bytes of version {metadata['version']}" if metadata["version"] else "no value"
        state = f"{metadata['state']} for {age_text(metadata['for_seconds'])}"
        yield f"metadata: {state}{reason}, wanted version {metadata['wanted']}, {value}"
    endpoints = facts["endpoints"]
    yield f"endpoints: Service {endpoints['service'] or 'unknown'}, {endpoints['state']}"
    for name, label in (("ready", "ready"), ("not_ready", "not ready")):
        if endpoints[name]:
            yield f"  {label}: {', '.join(endpoints[name])}"
    age = "never in step with its source" if facts["age"] is None else f"in step {age_text(facts['age'])} ago"
    yield f"generation {facts['generation']}, {age}"


def _why_not(rows: RowReader, model: str) -> Iterator[str]:
    """What there is that might explain why nothing serves the model."""
    invalid = [msgspec.msgpack.decode(value, type=InvalidRow) for _, _, value in rows.rows(Kind.INVALID)]
    if not invalid:
        yield f"No AppModel claims {model!r}, and none was set aside."
        return
    yield f"No AppModel in force claims {model!r}. These were set aside:"
    for row in sorted(invalid, key=lambda row: (row.kind, row.namespace, row.name)):
        where = f"{row.namespace}/{row.name}" if row.namespace else row.name
        yield f"  {row.kind} {where}: {row.reason}"
